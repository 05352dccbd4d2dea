"""A worker of several ranks as real processes, and what is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.grpc_setup import make_channel
from qwenserve.runtime.packed_ids import packed_ids
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.convert import with_neutral
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.system.processes import free_port

ROOT = Path(__file__).parents[2]
LIMIT_S = 90.0
_POLL_S = 0.05

SERVING = health_pb2.HealthCheckResponse.SERVING


class Job:
    """The process that starts the ranks, and what can be seen of them."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, stub: Any, health: Any) -> None:
        self.process = process
        self.port = port
        self.stub = stub
        self._health = health

    async def exit_code(self) -> int:
        return await asyncio.wait_for(self.process.wait(), LIMIT_S)

    async def output(self) -> str:
        assert self.process.stderr is not None
        return (await asyncio.wait_for(self.process.stderr.read(), LIMIT_S)).decode()

    async def serving(self) -> bool:
        """Whether it says so; nobody who answers is no either."""
        try:
            answer = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == SERVING)

    async def until_listening(self) -> None:
        """Waits until rank 0 answers, whatever it says."""
        await asyncio.wait_for(
            self._health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=LIMIT_S), LIMIT_S
        )

    async def until_serving(self, wanted: bool = True) -> None:
        async def poll() -> None:
            while await self.serving() is not wanted:
                assert not wanted or self.process.returncode is None, await self.output()
                await asyncio.sleep(_POLL_S)

        await asyncio.wait_for(poll(), LIMIT_S)

    def ranks(self) -> dict[int, int]:
        """The processes of the ranks, by their numbers."""
        found = {}
        for pid, environment in _environments():
            if f"QWENSERVE_WORKER__PORT={self.port}".encode() in environment:
                for item in environment:
                    if item.startswith(b"OMPI_COMM_WORLD_RANK="):
                        found[int(item.partition(b"=")[2])] = pid
        return found

    async def until_ranks(self, count: int) -> dict[int, int]:
        async def poll() -> dict[int, int]:
            while len(found := self.ranks()) < count:
                assert self.process.returncode is None, await self.output()
                await asyncio.sleep(_POLL_S)
            return found

        return await asyncio.wait_for(poll(), LIMIT_S)

    def left(self) -> list[int]:
        """Processes of the job that still run, whatever they are."""
        mark = f"QWENSERVE_WORKER__PORT={self.port}".encode()
        return [pid for pid, environment in _environments() if mark in environment]

    async def until_running(self) -> None:
        """Waits until the engine has a request."""

        async def poll() -> None:
            while (await self.stub.GetLoad(worker_pb2.GetLoadRequest(), timeout=LIMIT_S)).running == 0:  # noqa: ASYNC110  # another process's state
                await asyncio.sleep(_POLL_S)

        await asyncio.wait_for(poll(), LIMIT_S)

    async def ask(self, prompt: list[int], max_tokens: int) -> Any:
        """Opens a session with one request in it."""
        call = self.stub.Session()
        sampling = with_neutral(sampling_pb2.SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True))
        submit = worker_pb2.Submit(handle=1, prompt_token_ids=packed_ids(prompt), sampling=sampling)
        await call.write(worker_pb2.SessionRequest(submits=[submit]))
        return call


def _environments() -> Iterable[tuple[int, list[bytes]]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(entry.name), (entry / "environ").read_bytes().split(b"\0")


def left_behind() -> set[str]:
    """What jobs and MPI keep in shared memory."""
    return {
        path.name
        for path in Path("/dev/shm").iterdir()
        if path.name.startswith(("qwenserve-mpi-", "sm_segment", "vader_segment"))
    }


@contextlib.asynccontextmanager
async def job(ranks: int, **settings: object) -> AsyncIterator[Job]:
    """Starts a worker of `ranks` ranks for a block; keys are settings with `__` for dots."""
    port = free_port()
    given = {"worker__engine": "simulated", "worker__port": port, "drain_timeout_s": 20, **settings}
    arguments = [part for key, value in given.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "qwenserve.worker", "--mpi-np", str(ranks)),
        *arguments,
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.startswith("QWENSERVE_")},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with make_channel(f"127.0.0.1:{port}", GrpcConfig()) as channel:
            yield Job(process, port, worker_pb2_grpc.WorkerServiceStub(channel), health_pb2_grpc.HealthStub(channel))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), LIMIT_S)
