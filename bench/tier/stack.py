"""Brings up what is measured: worker and routers on loopback, or a floor; each pinned where the machine allows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from bench.meter import usable_cores
from bench.tier.processes import Process, free_ports, running

_START_TIMEOUT_S = 60.0
_READY = '"event": "ready"'


class Cores(NamedTuple):
    """Where what is measured runs, and where everything else runs (worker, client)."""

    measured: frozenset[int]
    others: frozenset[int]

    @property
    def apart(self) -> bool:
        """Whether the two share no core."""
        return not self.measured & self.others

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The first core for what is measured, all others for the rest; one core serves both where there is but one."""
        usable = usable_cores()
        return cls(frozenset(usable[:1]), frozenset(usable[1:] or usable))

    @property
    def all(self) -> frozenset[int]:
        """Every core."""
        return self.measured | self.others


class StackSettings(NamedTuple):
    """One deployment: `model` is a directory with a tokenizer; `step_ms` is the engine's time for a token."""

    model: str
    step_ms: float
    routers: int = 1
    max_running: int = 1024

    def worker_arguments(self, port: int) -> list[str]:
        """Returns the worker's command line. Prefill takes no time: the tier is measured, not the engine."""
        settings = {
            "model.reference": self.model,
            "worker.engine": "simulated",
            "worker.port": port,
            "worker.max_running": self.max_running,
            "worker.max_queued": 4096,
            "worker.simulated.step_ms": self.step_ms,
            "worker.simulated.prefill_tokens_per_s": 1e9,
            "worker.simulated.kv_blocks": 65536,
        }
        return _arguments(settings)

    def router_arguments(self, worker_port: int, grpc_port: int, http_port: int) -> list[str]:
        """Returns a router's command line."""
        settings = {
            "model.reference": self.model,
            "router.workers": [f"127.0.0.1:{worker_port}"],
            "router.port": grpc_port,
            "http.port": http_port,
        }
        return _arguments(settings) + (["--share-ports"] if self.routers > 1 else [])


def _arguments(settings: dict[str, object]) -> list[str]:
    # JSON is YAML, which is what the configuration reads; the levels and format are those that readiness is read from.
    given = {**settings, "log.level": "info", "log.format": "json"}
    pairs = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in given.items())
    return [part for key, value in pairs for part in ("--set", f"{key}={value}")]


class Stack(NamedTuple):
    """A running deployment."""

    worker: Process
    routers: Sequence[Process]
    worker_address: str
    grpc_address: str
    http_url: str

    @property
    def processes(self) -> Sequence[Process]:
        """All of it."""
        return (self.worker, *self.routers)


@contextlib.asynccontextmanager
async def deployment(settings: StackSettings, cores: Cores) -> AsyncIterator[Stack]:
    """Worker and routers, ready, while the block lasts. Several routers may use every core. Raises ProcessError."""
    worker_port, grpc_port, http_port = free_ports(3)
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        worker = await enter(running("worker", "worker", settings.worker_arguments(worker_port), cores.others))
        await worker.wait_for(_READY, _START_TIMEOUT_S)
        arguments = settings.router_arguments(worker_port, grpc_port, http_port)
        where = cores.measured if settings.routers == 1 else cores.all
        routers = [
            await enter(running(f"router-{number}", "router", arguments, where)) for number in range(settings.routers)
        ]
        for router in routers:
            await router.wait_for(_READY, _START_TIMEOUT_S)
        yield Stack(
            worker,
            routers,
            f"127.0.0.1:{worker_port}",
            f"127.0.0.1:{grpc_port}",
            f"http://127.0.0.1:{http_port}",
        )


class Floor(NamedTuple):
    """A running floor."""

    name: str
    process: Process
    url: str


@contextlib.asynccontextmanager
async def uvicorn_floor(step_ms: float, cores: Cores, *, one_beat: bool = False) -> AsyncIterator[Floor]:
    """The bare uvicorn app; with `one_beat` its streams send together. Raises ProcessError, also where the extra
    `bench` is not installed."""
    (port,) = free_ports(1)
    options = ("--http", "httptools", "--loop", "uvloop", "--log-level", "warning", "--no-access-log")
    arguments = ["bench.tier.uvicorn_floor:app", "--port", str(port), *options]
    environment = {"BENCH_FLOOR_STEP_MS": f"{step_ms:g}", "BENCH_FLOOR_BEAT": "one" if one_beat else "own"}
    async with running("uvicorn floor", "uvicorn", arguments, cores.measured, environment) as process:
        await process.wait_for_port(port, _START_TIMEOUT_S)
        yield Floor("bare uvicorn, one beat" if one_beat else "bare uvicorn", process, f"http://127.0.0.1:{port}")


@contextlib.asynccontextmanager
async def protocol_floor(step_ms: float, cores: Cores) -> AsyncIterator[Floor]:
    """The bare asyncio.Protocol. Raises ProcessError."""
    (port,) = free_ports(1)
    arguments = ["--port", str(port), "--step-ms", f"{step_ms:g}"]
    async with running("protocol floor", "bench.tier.protocol_floor", arguments, cores.measured) as process:
        await process.wait_for_port(port, _START_TIMEOUT_S)
        yield Floor("bare asyncio.Protocol, one beat", process, f"http://127.0.0.1:{port}")
