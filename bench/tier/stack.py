"""Brings up what is measured: worker and routers on loopback, or a floor; each pinned where the machine allows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from qwenserve.bench.tier.cores import Cores
from qwenserve.bench.tier.processes import Process, free_ports, running

_START_TIMEOUT_S = 60.0
_READY = '"event": "ready"'


class StackSettings(NamedTuple):
    """One deployment: `model` is a directory with a tokenizer; `step_ms` is the engine's time for a token. How many
    processes of each kind there are is told by `Cores`. `certificates`: a folder of `qwenserve certs`, for TLS on every
    hop.
    """

    model: str
    step_ms: float
    max_running: int = 1024
    # Where answers are kept; empty: nowhere.
    store_url: str = ""
    certificates: str = ""

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
            "worker.simulated.prefill_chunk_tokens": 1_000_000,
            "worker.simulated.kv_blocks": 65536,
            **self._cluster_tls("worker"),
        }
        return _arguments(settings)

    def tokenizer_arguments(self, port: int) -> list[str]:
        """Returns a tokenizer process's command line."""
        return _arguments({"model.reference": self.model, "tokenizer.port": port, **self._cluster_tls("tokenizer")})

    def router_arguments(self, tiers: Tiers, grpc_port: int, http_port: int) -> list[str]:
        """Returns a router's command line."""
        settings = {
            "model.reference": self.model,
            "router.workers": tiers.workers,
            "router.tokenizers": tiers.tokenizers,
            "router.port": grpc_port,
            "http.port": http_port,
            **({"store.url": self.store_url, "cache.mode": "readwrite"} if self.store_url else {}),
            **self._cluster_tls("router"),
            **self._tls({"cert_file": "router.pem", "key_file": "router.key"}),
        }
        return _arguments(settings)

    def _cluster_tls(self, name: str) -> dict[str, object]:
        pair = {"cluster_cert_file": f"{name}.pem", "cluster_key_file": f"{name}.key"}
        return self._tls({"cluster_ca_file": "ca.pem", **pair})

    def _tls(self, files: Mapping[str, str]) -> dict[str, object]:
        if not self.certificates:
            return {}
        return {f"tls.{setting}": f"{self.certificates}/{file}" for setting, file in files.items()}


class Tiers(NamedTuple):
    """Addresses that a router calls."""

    workers: Sequence[str]
    tokenizers: Sequence[str]


def _arguments(settings: dict[str, object]) -> list[str]:
    # JSON is YAML, which is what the configuration reads; the levels and format are those that readiness is read from.
    given = {**settings, "log.level": "info", "log.format": "json"}
    pairs = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in given.items())
    return [part for key, value in pairs for part in ("--set", f"{key}={value}")]


class Stack(NamedTuple):
    """A running deployment."""

    workers: Sequence[Process]
    tokenizers: Sequence[Process]
    routers: Sequence[Process]
    worker_addresses: Sequence[str]
    grpc_address: str
    http_url: str

    @property
    def worker(self) -> Process:
        """The first worker."""
        return self.workers[0]


@contextlib.asynccontextmanager
async def deployment(settings: StackSettings, cores: Cores) -> AsyncIterator[Stack]:
    """Workers, tokenizers and routers, ready, while the block lasts. Raises ProcessError."""
    grpc_port, http_port = free_ports(2)
    async with contextlib.AsyncExitStack() as stack:

        async def start(tier: str, commands: Sequence[list[str]], where: Sequence[frozenset[int]]) -> list[Process]:
            started = [
                await stack.enter_async_context(running(f"{tier}-{number}", f"qwenserve.{tier}", arguments, one))
                for number, (arguments, one) in enumerate(zip(commands, where, strict=True))
            ]
            for process in started:
                await process.wait_for(_READY, _START_TIMEOUT_S)
            return started

        worker_ports, tokenizer_ports = free_ports(len(cores.workers)), free_ports(len(cores.tokenizers))
        workers = await start("worker", [settings.worker_arguments(port) for port in worker_ports], cores.workers)
        tokenizers = await start(
            "tokenizer_svc", [settings.tokenizer_arguments(port) for port in tokenizer_ports], cores.tokenizers
        )
        tiers = Tiers(_addresses(worker_ports), _addresses(tokenizer_ports))
        arguments = settings.router_arguments(tiers, grpc_port, http_port)
        shared = ["--share-ports"] if len(cores.routers) > 1 else []
        routers = await start("router", [[*arguments, *shared]] * len(cores.routers), cores.routers)
        url = f"http{'s' if settings.certificates else ''}://127.0.0.1:{http_port}"
        yield Stack(workers, tokenizers, routers, tiers.workers, f"127.0.0.1:{grpc_port}", url)


def _addresses(ports: Sequence[int]) -> list[str]:
    return [f"127.0.0.1:{port}" for port in ports]


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
    async with running("protocol floor", "qwenserve.bench.tier.protocol_floor", arguments, cores.measured) as process:
        await process.wait_for_port(port, _START_TIMEOUT_S)
        yield Floor("bare asyncio.Protocol, one beat", process, f"http://127.0.0.1:{port}")
