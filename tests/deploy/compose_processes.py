"""The compose file's services as plain processes: each with its own command, environment and health check."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from tests.deploy.compose_file import Service
from tests.system.processes import free_port

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# Where each tier listens in its container, and the setting that says so.
LISTENS = {
    "worker": {50061: "QWENSERVE_WORKER__PORT", 9464: "QWENSERVE_METRICS__PORT"},
    "tokenizer": {50071: "QWENSERVE_TOKENIZER__PORT", 9464: "QWENSERVE_METRICS__PORT"},
    "router": {50051: "QWENSERVE_ROUTER__PORT", 8000: "QWENSERVE_HTTP__PORT"},
    "shim": {8000: "QWENSERVE_HTTP__PORT"},
}
Ports = Mapping[tuple[str, int], int]


def free_ports(services: Mapping[str, Service]) -> Ports:
    """Returns a free port of this machine for each port on which a service listens in its container."""
    return {(service.name, port): free_port() for service in services.values() for port in LISTENS[service.command[0]]}


def local(text: str, ports: Ports, own: str) -> str:
    """Returns an address, or a list of them, as it is on this machine."""
    text = text.replace("0.0.0.0", "127.0.0.1")
    for (name, port), here in ports.items():
        text = text.replace(f"{name}:{port}", f"127.0.0.1:{here}")
        if name == own:
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{here}")
    return text.replace("/models/qwen3-tiny", str(ROOT / "models" / "qwen3-tiny"))


def environment_of(service: Service, ports: Ports) -> dict[str, str]:
    """Returns what a service's container has in its environment, for its process and its health check alike."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QWENSERVE_")}
    environment |= {key: local(value, ports, service.name) for key, value in service.environment.items()}
    listens = LISTENS[service.command[0]]
    return environment | {setting: str(ports[service.name, port]) for port, setting in listens.items()}


@contextlib.asynccontextmanager
async def running(
    service: Service, ports: Ports, cache: Path, more: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a service's own command with its own environment, and `more` variables."""
    environment = environment_of(service, ports)
    environment |= {"QWENSERVE_CACHE_DIR": str(cache), "QWENSERVE_LOG__LEVEL": "warning", "OMP_WAIT_POLICY": "passive"}
    environment |= more or {}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "qwenserve.cli",
        *(local(part, ports, service.name) for part in service.command),
        cwd=ROOT,
        env=environment,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def healthy(service: Service, ports: Ports, process: asyncio.subprocess.Process) -> None:
    """Returns once the service's own health check succeeds; fails if its process ends first."""
    command = [local(part, ports, service.name) for part in service.probe]
    assert command[0] == "qwenserve"
    while True:
        assert process.returncode is None, f"{service.name} ended with {process.returncode}"
        probe = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "qwenserve.cli", *command[1:],
            cwd=ROOT, env=environment_of(service, ports), stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        if await probe.wait() == 0:
            return
