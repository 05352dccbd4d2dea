"""A worker by hand: it says what a test wants it to say, right or wrong."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.grpc_setup import make_server
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc

Behaviour: TypeAlias = "Callable[[OddWorker, Any], Awaitable[None]]"


async def answers_pings(worker: OddWorker, context: Any) -> None:
    """A worker that takes requests and does nothing about them."""
    async for message in requests_of(context):
        worker.received.append(message)
        if message.ping:
            await context.write(worker_pb2.SessionResponse())


async def requests_of(context: Any) -> AsyncIterator[worker_pb2.SessionRequest]:
    """The messages of a session."""
    while isinstance(message := await context.read(), worker_pb2.SessionRequest):
        yield message


class OddWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Serves one behaviour; `info` and `behaviour` may be changed while it runs."""

    def __init__(self, behaviour: Behaviour = answers_pings) -> None:
        self.info = worker_pb2.WorkerInfo(name="odd", model="m", vocab_size=100, max_model_len=64)
        self.behaviour = behaviour
        self.asked = 0
        self.steps = 0
        self.sessions = 0
        self.received: list[worker_pb2.SessionRequest] = []

    async def GetWorkerInfo(self, request: Any, context: Any) -> worker_pb2.WorkerInfo:  # noqa: N802  # the proto's name
        self.asked += 1
        return self.info

    async def Session(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        self.sessions += 1
        await self.behaviour(self, context)


@contextlib.asynccontextmanager
async def serving(worker: OddWorker, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serves a worker inside the block, on a free port unless told otherwise; gives its address."""
    server = make_server(GrpcConfig())
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
