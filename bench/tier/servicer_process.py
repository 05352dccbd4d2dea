"""The worker's side of the token session by itself: dispatch, packing, protobuf, gRPC and threads.

The engine is a list of ready-made chunks handed over once a step, so that nothing but the session takes CPU. The
client is another process that only reads. Rows are made of it in `servicer`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from qwenserve.bench.meter import machine_times
from qwenserve.bench.tier.processes import Process, running
from qwenserve.bench.tier.servicer import Measured
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.grpc_setup import make_channel, make_server
from qwenserve.runtime.lifecycle import freeze_loaded_objects, run
from qwenserve.runtime.packed_ids import packed_ids
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.convert import with_neutral
from qwenserve.worker.dispatch import Dispatcher, DispatchLimits
from qwenserve.worker.engine_interface import (
    Chunk,
    Deliver,
    EngineError,
    EngineInfo,
    EngineLoad,
    EngineRequest,
    Finish,
    FinishReason,
    KvEvent,
)
from qwenserve.worker.service import WorkerIdentity, WorkerService
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc

_WARM_UP_S = 1.0
_MOST = 4096


class ReadyMadeEngine:
    """Hands over the same chunks in every step; ends requests only when aborted."""

    def __init__(self) -> None:
        self._keys: dict[int, None] = {}
        self._deliver: Deliver | None = None
        self._chunks: Sequence[Chunk] = ()

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        """Takes requests from now on."""
        self._deliver = deliver
        return EngineInfo("ready-made", "1", 40_960, 151_936, frozenset({1}), _MOST)

    def submit(self, request: EngineRequest) -> None:
        """Adds a request to all further steps."""
        self._keys[request.key] = None

    def abort(self, key: int) -> None:
        """Ends a request."""
        if self._keys.pop(key, self) is None and self._deliver is not None:
            self._deliver([Chunk(key, (), None, Finish(FinishReason.ABORTED))])

    def load(self) -> EngineLoad:
        """Returns what runs."""
        return EngineLoad(len(self._keys))

    def pace_with(self, room: Callable[[], Awaitable[None]]) -> None:
        """Ignores it: the bench says when a step is due."""

    def kv_events(self) -> Sequence[KvEvent]:
        """There are none."""
        return ()

    async def stop(self) -> None:
        """Forgets all requests."""
        self._keys.clear()

    def step(self) -> None:
        """Gives each request its token."""
        assert self._deliver is not None
        if len(self._chunks) != len(self._keys):
            self._chunks = [Chunk(key, (100_000 + key,), None, None) for key in self._keys]
        self._deliver(self._chunks)


class ReadyMadeMessages(worker_pb2_grpc.WorkerServiceServicer):
    """The floor: one session, which gets the same message in every step."""

    def __init__(self, streams: int) -> None:
        self._message = worker_pb2.SessionResponse(
            handles=range(1, streams + 1), token_ids=range(100_000, 100_000 + streams)
        )
        self._context: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.messages = 0

    async def Session(self, request_iterator: Any, context: Any) -> None:  # noqa: N802 - gRPC's name
        """Stays open until the call is cancelled."""
        self._context.set_result(context)
        await asyncio.Event().wait()

    async def opened(self) -> None:
        """Waits for the session."""
        await self._context

    async def step(self) -> None:
        """Writes the message."""
        self.messages += 1
        await self._context.result().write(self._message)


class Worker:
    """The worker's session, between a ready-made engine and gRPC."""

    def __init__(
        self, engine: ReadyMadeEngine, dispatcher: Dispatcher, service: WorkerService, streams: int, *, paced: bool
    ) -> None:
        self.service = service
        self._paced = paced
        self._engine = engine
        self._dispatcher = dispatcher
        self._streams = streams

    @classmethod
    async def start(cls, streams: int, *, paced: bool) -> Worker:
        """Starts engine and dispatcher."""
        engine = ReadyMadeEngine()
        dispatcher = Dispatcher(engine, DispatchLimits(_MOST, _MOST, 1024))
        info = await engine.start(dispatcher.deliver, lambda error: None)
        dispatcher.started(info)
        service = WorkerService()
        service.ready(dispatcher, info, WorkerIdentity("measured", "none", "", 0))
        return cls(engine, dispatcher, service, streams, paced=paced)

    @property
    def messages(self) -> int:
        """Messages so far: each has a stamp."""
        return self._dispatcher.load.now().sequence

    async def opened(self) -> None:
        """Waits until all requests are there."""
        while self._engine.load().running < self._streams:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.05)

    async def step(self) -> None:
        """Hands over a step; an engine that costs nothing then waits for room."""
        self._engine.step()
        if not self._paced:
            await self._dispatcher.room()


async def steps(step: Callable[[], Awaitable[None]], step_s: float, seconds: float) -> int:
    """Takes steps for a while, on a beat or as fast as it can; returns how many."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    count = 0
    while (now := loop.time()) < begin + seconds:
        await step()
        count += 1
        await asyncio.sleep(max(0.0, begin + count * step_s - now) if step_s else 0)
    return count


async def measure(arguments: argparse.Namespace) -> int:
    """Serves one session and prints what it cost."""
    server = make_server(GrpcConfig())
    source: ReadyMadeMessages | Worker
    if arguments.floor:
        source = ReadyMadeMessages(arguments.streams)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(source, server)
    else:
        source = await Worker.start(arguments.streams, paced=arguments.step_ms > 0)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(source.service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    freeze_loaded_objects()
    step_s = arguments.step_ms / 1000
    numbers = [f"--read-from={port}", f"--streams={arguments.streams}"]
    own = os.sched_getaffinity(0)
    theirs = set(map(int, arguments.client_cores.split(","))) if arguments.client_cores else own
    async with contextlib.AsyncExitStack() as processes:
        start = processes.enter_async_context
        client = await start(running("client", "qwenserve.bench.tier.servicer_process", numbers, theirs))
        helpers = [await start(running("awake", "qwenserve.bench.tier.awake", [], own))] if arguments.keep_awake else []
        await source.opened()
        await steps(source.step, step_s, _WARM_UP_S)
        before, machine = _clocks(client, helpers), machine_times()
        began, messages = time.perf_counter(), source.messages
        count = await steps(source.step, step_s, arguments.seconds)
        cpu_s, client_s, awake_s = (now - was for now, was in zip(_clocks(client, helpers), before, strict=True))
        wall, after = time.perf_counter() - began, machine_times()
        busy_s = after.busy_s - machine.busy_s if after and machine else None
        steal_s = after.steal_s - machine.steal_s if after and machine else 0.0
        sent = source.messages - messages
        spent = (cpu_s, client_s, awake_s, wall, busy_s, steal_s)
        print(Measured(count, arguments.streams, sent, *spent).line(), flush=True)
        print("END", flush=True)
    await server.stop(0)
    return 0


def _clocks(client: Process, helpers: Sequence[Process]) -> tuple[float, float, float]:
    return time.process_time(), client.cpu_s(), sum(helper.cpu_s() for helper in helpers)


async def read(port: int, streams: int) -> int:
    """The client process: submits and reads for ever."""
    async with make_channel(f"127.0.0.1:{port}", GrpcConfig()) as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).Session()
        sampling = with_neutral(sampling_pb2.SamplingParams(max_tokens=30_000))
        handles = range(1, streams + 1)
        prompt = packed_ids([1])
        submits = [worker_pb2.Submit(handle=one, prompt_token_ids=prompt, sampling=sampling) for one in handles]
        await call.write(worker_pb2.SessionRequest(submits=submits))
        while await call.read() is not grpc.aio.EOF:
            pass
    return 0


def main() -> int:
    """Measures, or is the client of a process that measures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--floor", action="store_true", help="bare grpc.aio and ready-made messages")
    parser.add_argument("--keep-awake", action="store_true", help="the core does not sleep between two steps")
    parser.add_argument("--client-cores", default="", help="numbers, with commas between them")
    parser.add_argument("--read-from", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read_from:
        return run(read(arguments.read_from, arguments.streams))
    return run(measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
