"""The gRPC face of a worker. Thin: it finds the dispatcher and describes the worker."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import grpc

from qwenserve.runtime.errors import Unavailable
from qwenserve.type.v1 import task_pb2
from qwenserve.worker.dispatch import Dispatcher
from qwenserve.worker.engine_interface import EngineInfo
from qwenserve.worker.streams import serve_generate, serve_session
from qwenserve.worker.told_settings import told_settings
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc

SERVICE_NAME = "qwenserve.worker.v1.WorkerService"

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class WorkerIdentity(NamedTuple):
    """What a worker publishes about itself besides its engine's facts."""

    name: str
    model: str
    model_fingerprint: str
    max_queued: int
    check: worker_pb2.ModelCheck | None = None
    settings: Mapping[str, Any] = MappingProxyType({})


class _Ready(NamedTuple):
    dispatcher: Dispatcher
    info: EngineInfo
    identity: WorkerIdentity


class WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    """`qwenserve.worker.v1.WorkerService`. Answers UNAVAILABLE until `ready` is called."""

    def __init__(self) -> None:
        self._ready: _Ready | None = None

    def ready(self, dispatcher: Dispatcher, info: EngineInfo, identity: WorkerIdentity) -> None:
        """Serves from now on."""
        self._ready = _Ready(dispatcher, info, identity)

    def describe(self) -> worker_pb2.WorkerInfo:
        """Says what the worker is, can do and does now."""
        dispatcher, info, identity = self._parts()
        return worker_pb2.WorkerInfo(
            task_kinds=[task_pb2.TASK_KIND_GENERATE],
            name=identity.name,
            engine=info.name,
            engine_version=info.version,
            model=identity.model,
            model_fingerprint=identity.model_fingerprint,
            max_model_len=info.max_model_len,
            max_running=dispatcher.max_running,
            max_queued=identity.max_queued,
            vocab_size=info.vocab_size,
            kv_block_tokens=info.kv_block_tokens,
            unsupported_fields=sorted(info.unsupported_fields),
            max_top_logprobs=info.max_top_logprobs,
            draining=dispatcher.draining,
            simulated=info.simulated,
            pid=os.getpid(),
            check=identity.check,
            approximate_fields=info.approximate_fields,
            exact_cache_news=info.tells_kv_events,
            engine_settings=told_settings(identity.settings, info.options),
            kernel_tables=info.kernel_tables,
            guide_kinds=[int(kind) for kind in sorted(info.guide_kinds)],  # type: ignore[misc]  # equal numbers by contract
        )

    async def Session(self, request_iterator: Any, context: Context) -> None:  # noqa: N802  # named by the proto
        """Carries one router's requests, packed."""
        await serve_session(self._parts().dispatcher, context)

    async def Generate(  # noqa: N802
        self, request: worker_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[worker_pb2.GenerateResponse]:
        """Generates for one prompt."""
        stream = serve_generate(self._parts().dispatcher, request)
        try:
            async for response in stream:
                yield response
        finally:
            await stream.aclose()

    async def GetWorkerInfo(  # noqa: N802
        self, request: worker_pb2.GetWorkerInfoRequest, context: Context
    ) -> worker_pb2.WorkerInfo:
        """Describes the worker."""
        return self.describe()

    async def GetLoad(self, request: worker_pb2.GetLoadRequest, context: Context) -> worker_pb2.Load:  # noqa: N802
        """Returns the load right now."""
        load = worker_pb2.Load()
        self._parts().dispatcher.load.stamp(load)
        return load

    def _parts(self) -> _Ready:
        if self._ready is None:
            raise Unavailable("the worker's engine is still starting", retry_after_s=1.0)
        return self._ready
