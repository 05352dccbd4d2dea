"""Measures the CPU time per token of the worker's session side, without an engine.

    python -m tests.worker.measure_servicer [--streams 128] [--seconds 5]

The engine is a list of ready-made chunks handed over once per step; the client is another process that reads and
counts. What is measured is the worker process: dispatch, packing, protobuf, gRPC and its threads. "merged" is the
mean number of steps in a message.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import grpc

from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc
from runtime.config import GrpcConfig
from runtime.grpc_setup import make_channel, make_server
from runtime.lifecycle import run
from tests.worker.running import submit
from worker.dispatch import Dispatcher, DispatchLimits
from worker.engines.interface import (
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
from worker.service import WorkerIdentity, WorkerService

_WARM_UP_S = 1.0


class ReadyMadeEngine:
    """Hands over the same chunks in every step; ends requests only when aborted."""

    def __init__(self) -> None:
        self._keys: dict[int, None] = {}
        self._deliver: Deliver | None = None

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        self._deliver = deliver
        return EngineInfo("ready-made", "1", 40_960, 151_936, frozenset({1}), 4096)

    def submit(self, request: EngineRequest) -> None:
        self._keys[request.key] = None

    def abort(self, key: int) -> None:
        if self._keys.pop(key, self) is None and self._deliver is not None:
            self._deliver([Chunk(key, (), None, Finish(FinishReason.ABORTED))])

    def load(self) -> EngineLoad:
        return EngineLoad(len(self._keys))

    def kv_events(self) -> Sequence[KvEvent]:
        return ()

    async def stop(self) -> None:
        self._keys.clear()

    async def steps(self, pace_s: float, seconds: float, room: Callable[[], Awaitable[None]]) -> int:
        """Takes steps for a while; returns how many."""
        assert self._deliver is not None
        chunks = [Chunk(key, (100_000 + key,), None, None) for key in self._keys]
        loop = asyncio.get_running_loop()
        begin = loop.time()
        count = 0
        while (now := loop.time()) < begin + seconds:
            self._deliver(chunks)
            count += 1
            await asyncio.sleep(max(0.0, begin + count * pace_s - now) if pace_s else 0)
            if not pace_s:
                await room()
        return count


class Measured(NamedTuple):
    """One run."""

    tokens: int
    cpu_s: float
    steps_per_message: float


async def measure(streams: int, pace_s: float, seconds: float) -> Measured:
    """Runs one worker and one client process."""
    engine = ReadyMadeEngine()
    dispatcher = Dispatcher(engine, DispatchLimits(4096, 4096, 1024))
    info = await engine.start(dispatcher.deliver, lambda error: None)
    dispatcher.started(info)
    service = WorkerService()
    service.ready(dispatcher, info, WorkerIdentity("measured", "none", "", 0))
    server = make_server(GrpcConfig())
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __spec__.name, "--read-from", str(port), "--streams", str(streams))
    )
    try:
        while engine.load().running < streams:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.05)
        await engine.steps(pace_s, _WARM_UP_S, dispatcher.room)
        stamp = dispatcher.load.stamp().sequence
        cpu = time.process_time()
        steps = await engine.steps(pace_s, seconds, dispatcher.room)
        cpu = time.process_time() - cpu
        messages = dispatcher.load.stamp().sequence - stamp - 1
        return Measured(steps * streams, cpu, steps / messages)
    finally:
        client.terminate()
        await asyncio.wait_for(client.wait(), 10)
        await server.stop(0)


async def read(port: int, streams: int) -> int:
    """The client process: submits and reads for ever."""
    async with make_channel(f"127.0.0.1:{port}", GrpcConfig()) as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).Session()
        submits = [submit(handle, [1], sampling={"max_tokens": 30_000}) for handle in range(1, streams + 1)]
        await call.write(worker_pb2.SessionRequest(submits=submits))
        while await call.read() is not grpc.aio.EOF:
            pass
    return 0


async def report(streams: int, seconds: float) -> int:
    """Prints both cases."""
    for name, pace_s in (("paced, a step every 10 ms", 0.010), ("as fast as it can", 0.0)):
        tokens, cpu_s, merged = await measure(streams, pace_s, seconds)
        print(
            f"{name}: {cpu_s / tokens * 1e6:.2f} us a token ({tokens} tokens, {streams} streams, merged {merged:.1f})"
        )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--read-from", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read_from:
        return run(read(arguments.read_from, arguments.streams))
    return run(report(arguments.streams, arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
