"""Sends spans over OTLP/gRPC, with OpenTelemetry's own exporter and its thread (extra `otel`).

Spans are made whole when a request ends, so the library's tracer, with its context variables and locks on the way of
every request, is not used: only its finished spans, its bounded queue and its exporter are.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from qwenserve.router.tracing.spans import Kind, Span
from qwenserve.runtime.config import ConfigError, TracingConfig
from qwenserve.runtime.trace_context import TraceContext

# How long one attempt to send, and what is left at the end, may take.
_TIMEOUT_S = 5.0


class OtlpSpans:
    """Queues spans for the exporter's thread; a full queue drops them. Raises ConfigError without the library."""

    def __init__(self, config: TracingConfig) -> None:
        try:
            from opentelemetry import trace as api
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk import trace as sdk
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        except ImportError:
            raise ConfigError(
                "tracing.endpoint: OpenTelemetry is not installed; run pip install 'qwenserve[otel]'"
            ) from None
        self._api: Any = api
        self._span: Any = sdk.ReadableSpan
        own = version("qwenserve")
        about = {"service.name": config.service_name, "service.version": own, "host.name": socket.gethostname()}
        self._resource = Resource.create(about)
        self._scope = InstrumentationScope("qwenserve", own)
        self._kinds = {
            Kind.INTERNAL: api.SpanKind.INTERNAL,
            Kind.SERVER: api.SpanKind.SERVER,
            Kind.CLIENT: api.SpanKind.CLIENT,
        }
        exporter = OTLPSpanExporter(
            endpoint=config.endpoint, insecure=not config.endpoint.startswith("https://"), timeout=_TIMEOUT_S
        )
        self._queue = BatchSpanProcessor(exporter, schedule_delay_millis=config.delay_s * 1000)

    def send(self, spans: Iterable[Span]) -> None:
        """Queues the spans of one request."""
        # Spans have the clock's time; between two looks at both clocks it may be set, but not within one request.
        offset_ns = time.time_ns() - time.monotonic_ns()
        for span in spans:
            self._queue.on_end(self._finished(span, offset_ns))

    async def close(self) -> None:
        """Sends what is left, for a limited time."""
        await asyncio.to_thread(self._queue.shutdown)

    def _finished(self, span: Span, offset_ns: int) -> Any:
        status = self._api.Status(self._api.StatusCode.ERROR, span.error) if span.error else self._api.Status()
        return self._span(
            span.name,
            context=self._context(span.context, remote=False),
            parent=None if span.parent is None else self._context(span.parent, remote=span.kind is Kind.SERVER),
            resource=self._resource,
            attributes=span.attributes,
            kind=self._kinds[span.kind],
            status=status,
            start_time=int(span.began * 1e9) + offset_ns,
            end_time=int(span.ended * 1e9) + offset_ns,
            instrumentation_scope=self._scope,
        )

    def _context(self, context: TraceContext, *, remote: bool) -> Any:
        flags = self._api.TraceFlags(int(context.sampled))
        return self._api.SpanContext(context.trace_id, context.span_id, remote, flags)
