"""The worker's side of the token session by itself, and rows about it: dispatch, packing, protobuf, gRPC and threads.

The engine is a list of ready-made chunks handed over once a step, so that nothing but the session takes CPU. The
client is another process that only reads. Runs as a process of its own; see `main`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import grpc

from bench.findings import Finding
from bench.meter import machine_times, process_cpu_s
from bench.tier.burden import Surroundings, doubts
from bench.tier.context import STREAMS, Context
from bench.tier.processes import pin, running
from bench.tier.table import Row
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc
from runtime.config import GrpcConfig
from runtime.grpc_setup import make_channel, make_server
from runtime.lifecycle import run, settle_memory
from worker.convert import with_neutral
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

_STEP_MS = 10.0
_WARM_UP_S = 1.0
_RESULT = "MEASURED "
_MOST = 4096
_PATIENCE_S = 60.0
_CASES = (("paced", _STEP_MS, STREAMS), ("paced.many", _STEP_MS, 4 * STREAMS), ("fast", 0.0, STREAMS))


class ReadyMadeEngine:
    """Hands over the same chunks in every step; ends requests only when aborted."""

    def __init__(self) -> None:
        self._keys: dict[int, None] = {}
        self._deliver: Deliver | None = None

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

    def kv_events(self) -> Sequence[KvEvent]:
        """There are none."""
        return ()

    async def stop(self) -> None:
        """Forgets all requests."""
        self._keys.clear()

    async def steps(self, step_s: float, seconds: float, room: Callable[[], Awaitable[None]]) -> int:
        """Takes steps for a while, on a beat or as fast as there is room; returns how many."""
        assert self._deliver is not None
        chunks = [Chunk(key, (100_000 + key,), None, None) for key in self._keys]
        loop = asyncio.get_running_loop()
        begin = loop.time()
        count = 0
        while (now := loop.time()) < begin + seconds:
            self._deliver(chunks)
            count += 1
            await asyncio.sleep(max(0.0, begin + count * step_s - now) if step_s else 0)
            if not step_s:
                await room()
        return count


class Measured(NamedTuple):
    """One repetition: CPU seconds of the worker's process and of the client's, and of the whole machine in between
    (None where it cannot be read)."""

    steps: int
    streams: int
    messages: int
    cpu_s: float
    client_s: float
    wall_s: float
    busy_s: float | None
    steal_s: float

    @property
    def us_per_token(self) -> float:
        """Microseconds of CPU for a token."""
        return self.us_per_step / self.streams

    @property
    def us_per_step(self) -> float:
        """Microseconds of CPU for a step of all streams."""
        return self.cpu_s / self.steps * 1e6

    @property
    def surroundings(self) -> Surroundings:
        """What may have disturbed it."""
        foreign = None if self.busy_s is None else max(0.0, self.busy_s - self.cpu_s - self.client_s)
        return Surroundings(self.wall_s, self.client_s / self.wall_s, foreign, self.steal_s)


def read_measured(log: str) -> list[Measured]:
    """Reads what the process has printed so far."""
    return [Measured(*json.loads(line[len(_RESULT) :])) for line in log.splitlines() if line.startswith(_RESULT)]


async def worker_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """CPU of the worker's session per token, paced and as fast as it can."""
    rows: list[Row] = []
    findings: list[Finding] = []
    for name, step_ms, streams in _CASES:
        context.say(f"worker, {name}: {context.repeats} repetition(s)")
        numbers = {"streams": streams, "step-ms": step_ms, "seconds": context.seconds, "repeat": context.repeats}
        arguments = [f"--{key}={value}" for key, value in numbers.items()]
        arguments.append(f"--client-cores={','.join(map(str, sorted(context.cores.client)))}")
        limit_s = _PATIENCE_S + (context.seconds + _WARM_UP_S) * context.repeats
        # No router runs: its core is the worker's.
        async with running("servicer", "bench.tier.servicer", arguments, context.cores.measured) as process:
            await process.wait_for("\nEND", limit_s)
            found = read_measured(process.log)
        merged = sum(one.steps for one in found) / sum(one.messages for one in found)
        middle = sorted(one.us_per_step for one in found)[len(found) // 2]
        pace = f"paced {step_ms:g} ms" if step_ms else "as fast as it can"
        rows.append(
            Row(
                f"worker.{name}",
                f"worker's session per token, {pace}, {streams} streams",
                "µs CPU",
                [one.us_per_token for one in found],
                3.0,
                f"ready-made tokens, no engine; {middle:.0f} µs a step, {merged:.1f} steps a message",
            )
        )
        findings += doubts(f"worker {name}", [one.surroundings for one in found], context.core_count)
    return rows, findings


async def measure(arguments: argparse.Namespace) -> int:
    """Serves one session and prints a line for each repetition."""
    engine = ReadyMadeEngine()
    dispatcher = Dispatcher(engine, DispatchLimits(_MOST, _MOST, 1024))
    info = await engine.start(dispatcher.deliver, lambda error: None)
    dispatcher.started(info)
    service = WorkerService()
    service.ready(dispatcher, info, WorkerIdentity("measured", "none", "", 0))
    server = make_server(GrpcConfig())
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    settle_memory()
    numbers = [f"--read-from={port}", f"--streams={arguments.streams}", f"--client-cores={arguments.client_cores}"]
    client = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.tier.servicer", *numbers)
    step_s = arguments.step_ms / 1000
    try:
        while engine.load().running < arguments.streams:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.05)
        for _ in range(arguments.repeat):
            await engine.steps(step_s, _WARM_UP_S, dispatcher.room)
            sequence, machine = dispatcher.load.stamp().sequence, machine_times()
            cpu, client_cpu, began = time.process_time(), process_cpu_s(client.pid), time.perf_counter()
            steps = await engine.steps(step_s, arguments.seconds, dispatcher.room)
            cpu, client_cpu = time.process_time() - cpu, process_cpu_s(client.pid) - client_cpu
            wall, after = time.perf_counter() - began, machine_times()
            found = Measured(
                steps,
                arguments.streams,
                dispatcher.load.stamp().sequence - sequence - 1,
                cpu,
                client_cpu,
                wall,
                after.busy_s - machine.busy_s if after and machine else None,
                after.steal_s - machine.steal_s if after and machine else 0.0,
            )
            print(f"{_RESULT}{json.dumps(found)}", flush=True)
        print("END", flush=True)
    finally:
        client.terminate()
        await asyncio.wait_for(client.wait(), 10)
        await server.stop(0)
    return 0


async def read(port: int, streams: int) -> int:
    """The client process: submits and reads for ever."""
    async with make_channel(f"127.0.0.1:{port}", GrpcConfig()) as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).Session()
        sampling = with_neutral(sampling_pb2.SamplingParams(max_tokens=30_000))
        handles = range(1, streams + 1)
        submits = [worker_pb2.Submit(handle=one, prompt_token_ids=[1], sampling=sampling) for one in handles]
        await call.write(worker_pb2.SessionRequest(submits=submits))
        while await call.read() is not grpc.aio.EOF:
            pass
    return 0


def main() -> int:
    """Measures, or is the client of a process that measures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--step-ms", type=float, default=_STEP_MS)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--client-cores", default="", help="numbers, with commas between them")
    parser.add_argument("--read-from", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read_from:
        if arguments.client_cores:
            pin(0, [int(core) for core in arguments.client_cores.split(",")])
        return run(read(arguments.read_from, arguments.streams))
    return run(measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
