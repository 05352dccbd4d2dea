"""Which requests are traced, and where their spans go."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from qwenserve.router.chat.answer import AnswerOutcome
from qwenserve.router.tracing.request_trace import RequestTrace
from qwenserve.router.tracing.spans import Span, spans_of
from qwenserve.runtime.trace_context import new_trace, read_traceparent

# Of a trace's id, the part that decides: the last 63 bits are random in every implementation.
_DICE = 1 << 63


class SpanSink(Protocol):
    """Takes finished spans. Must not wait and must not raise."""

    def send(self, spans: Iterable[Span]) -> None:
        """Takes the spans of one request."""


class Tracing:
    """Traces requests: those whose caller says so, and a share of those whose caller says nothing."""

    def __init__(self, model: str, share: float, sink: SpanSink) -> None:
        self._model = model
        self._share = share
        self._sink = sink

    def begin(self, traceparent: str) -> RequestTrace | None:
        """Returns the trace of a new request; None where it is not traced."""
        parent = read_traceparent(traceparent)
        if parent is not None:
            return RequestTrace(parent.child(), parent) if parent.sampled else None
        context = new_trace(sampled=True)
        return RequestTrace(context, None) if context.trace_id % _DICE < self._share * _DICE else None

    def end(self, outcome: AnswerOutcome) -> None:
        """Sends the spans of a request that has ended, if it is traced."""
        trace = outcome.call.trace
        if trace is not None:
            self._sink.send(spans_of(trace, outcome, self._model, time.monotonic()))
