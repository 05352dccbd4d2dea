"""What a deployment consists of: which processes, with which arguments, at which addresses. Decides, starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from qwenserve.cli.options import setting_texts
from qwenserve.cli.ports import Endpoint
from qwenserve.runtime.client_tls import ClientTls, own_tls
from qwenserve.runtime.config import ENV_PREFIX, SECRETS, Config

Tier = Literal["store", "worker", "tokenizer", "router"]

# A store is no program of ours.
_MODULES: Mapping[Tier, str] = {
    "worker": "qwenserve.worker",
    "tokenizer": "qwenserve.tokenizer_svc",
    "router": "qwenserve.router",
}

# OpenMP threads that spin while they wait take the processor from everybody else; llama.cpp reads this once, at start.
PROCESS_ENVIRONMENT: Mapping[Tier, Mapping[str, str]] = {
    "store": {},
    "worker": {"OMP_WAIT_POLICY": "passive"},
    "tokenizer": {},
    "router": {},
}


class ProcessPlan(BaseModel):
    """One process. `probe` is its gRPC address for callers on this machine."""

    model_config = ConfigDict(frozen=True)

    name: str
    tier: Tier
    arguments: tuple[str, ...]
    environment: dict[str, str]
    probe: str
    # Whether other processes may listen at `probe` too, so that an answer from there does not prove this one ready.
    # Even a single one shares its port: a rolling restart starts the next process beside it. Not so a worker, whose
    # model would be in memory twice.
    shared: bool = False
    # Its own port speaks TLS and knows its clients: health checks get a port of their own, on loopback.
    tls: bool = False


class DeploymentPlan(BaseModel):
    """All processes of a deployment, and what to tell people about it."""

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    path: str
    http: str
    grpc: str
    drain_timeout_s: float
    drain_notice_s: float = 0.0
    # How to call the public ports; None: in plain text.
    tls: ClientTls | None = None
    start_timeout_s: float = 600.0
    health_timeout_s: float = 30.0
    # Environment variables of every process: what must not be seen in a list of processes.
    secrets: dict[str, str] = Field(default_factory=dict, repr=False)
    processes: tuple[ProcessPlan, ...]

    def of_tier(self, *tiers: Tier) -> list[ProcessPlan]:
        """Returns the processes of some tiers."""
        return [process for process in self.processes if process.tier in tiers]


class Counts(NamedTuple):
    """How many processes of each tier."""

    workers: int = 1
    routers: int = 1
    tokenizers: int = 0


class Addresses(NamedTuple):
    """Where everything listens. `http` is None where it is switched off, `store` where the deployment starts none."""

    http: Endpoint | None
    grpc: Endpoint
    workers: Sequence[Endpoint]
    tokenizers: Sequence[Endpoint]
    store: Endpoint | None = None


def make_plan(
    config: Config,
    *,
    name: str,
    path: str,
    counts: Counts,
    addresses: Addresses,
    config_file: Path | None,
    overrides: Mapping[str, str],
    store_command: Sequence[str] = (),
) -> DeploymentPlan:
    """Returns the plan. `overrides` (YAML texts) go to every process, together with what is different for each.

    `store_command` starts the server at `addresses.store`.
    """
    secrets = {key: text for key, text in overrides.items() if key in SECRETS}
    shown = {key: text for key, text in overrides.items() if key not in SECRETS}
    common = (*(("--config", str(config_file)) if config_file else ()), *_arguments(shown))
    workers = [
        _process(
            "worker",
            f"worker-{n}",
            endpoint,
            common,
            {**_listen("worker", endpoint), "worker.name": f"worker-{n}"},
            tls=bool(config.tls.cluster_ca_file),
        )
        for n, endpoint in enumerate(addresses.workers)
    ]
    tokenizers = [
        _process("tokenizer", f"tokenizer-{n}", endpoint, common, _listen("tokenizer", endpoint), shared=True)
        for n, endpoint in enumerate(addresses.tokenizers)
    ]
    router_settings: dict[str, Any] = {
        **_listen("router", addresses.grpc),
        "router.workers": [str(endpoint.reachable) for endpoint in addresses.workers] or list(config.router.workers),
        "router.tokenizers": [str(endpoint.reachable) for endpoint in addresses.tokenizers],
        "http.enabled": addresses.http is not None,
        **(_listen("http", addresses.http) if addresses.http else {}),
    }
    routers = [
        _process("router", f"router-{n}", addresses.grpc, common, router_settings, shared=True)
        for n in range(counts.routers)
    ]
    stores = []
    if addresses.store is not None:
        probe = str(addresses.store)
        stores = [
            ProcessPlan(name="store-0", tier="store", arguments=tuple(store_command), environment={}, probe=probe)
        ]
    processes = (*workers, *tokenizers, *routers)
    if config.metrics.port:
        processes = tuple(_telling(process, config.metrics.port + n) for n, process in enumerate(processes))
    return DeploymentPlan(
        name=name,
        model=config.model_name,
        path=path,
        http=str(addresses.http.reachable) if addresses.http else "",
        grpc=str(addresses.grpc.reachable),
        drain_timeout_s=config.drain_timeout_s,
        tls=own_tls(config.tls),
        drain_notice_s=config.drain_notice_s,
        health_timeout_s=config.health_timeout_s,
        secrets={f"{ENV_PREFIX}{key.upper().replace('.', '__')}": text for key, text in secrets.items()},
        processes=(*stores, *processes),
    )


def _process(
    tier: Tier,
    name: str,
    endpoint: Endpoint,
    common: Sequence[str],
    settings: Mapping[str, Any],
    *,
    shared: bool = False,
    tls: bool = False,
) -> ProcessPlan:
    arguments = [sys.executable, "-m", _MODULES[tier], *common, *_arguments(setting_texts(settings))]
    if shared:
        arguments.append("--share-ports")
    return ProcessPlan(
        name=name,
        tier=tier,
        arguments=tuple(arguments),
        environment=dict(PROCESS_ENVIRONMENT[tier]),
        probe=str(endpoint.reachable),
        shared=shared,
        tls=tls,
    )


def _telling(process: ProcessPlan, port: int) -> ProcessPlan:
    """Returns the process with a port of its own for metrics, before the flags without a value."""
    settings = _arguments({"metrics.port": str(port)})
    flags = [part for part in process.arguments if part == "--share-ports"]
    rest = [part for part in process.arguments if part != "--share-ports"]
    return process.model_copy(update={"arguments": (*rest, *settings, *flags)})


def _listen(section: str, endpoint: Endpoint) -> dict[str, Any]:
    return {f"{section}.host": endpoint.host, f"{section}.port": endpoint.port}


def _arguments(texts: Mapping[str, str]) -> list[str]:
    return [part for key, text in texts.items() for part in ("--set", f"{key}={text}")]
