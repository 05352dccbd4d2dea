"""A deployment of real processes, for what must be seen from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import NamedTuple

import aiohttp

from tests.system.stack import ROOT

_READY_S = 60.0


class Deployment(NamedTuple):
    """One worker and one router, as processes."""

    http_port: int
    grpc_port: int
    router: asyncio.subprocess.Process
    worker: asyncio.subprocess.Process

    @property
    def url(self) -> str:
        """Base of the HTTP API."""
        return f"http://127.0.0.1:{self.http_port}"


def free_port() -> int:
    """Returns a TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def start(
    tier: str, settings: Mapping[str, object], *flags: str, stderr: int | None = None, files: int = 0
) -> asyncio.subprocess.Process:
    """Starts `python -m qwenserve.TIER` with these settings and flags, and `files` file descriptors at most (0: as many
    as this process may have).
    """
    arguments = [item for key, value in settings.items() for item in ("--set", f"{key}={value}")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QWENSERVE_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"qwenserve.{tier}",
        *arguments,
        *flags,
        cwd=ROOT,
        env={**environment, "OMP_WAIT_POLICY": "passive"},
        stderr=stderr,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_NOFILE, (files, files)) if files else None,
    )


@contextlib.asynccontextmanager
async def deployment(**overrides: object) -> AsyncIterator[Deployment]:
    """Runs a worker and a router inside the block; keys are configuration keys with `__` for dots."""
    http_port, grpc_port, worker_port = free_port(), free_port(), free_port()
    settings: dict[str, object] = {
        "http.port": http_port,
        "router.port": grpc_port,
        "router.workers": f"[127.0.0.1:{worker_port}]",
        "worker.port": worker_port,
        "worker.engine": "simulated",
        "log.level": "error",
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    worker = await start("worker", settings)
    router = await start("router", settings)
    try:
        running = Deployment(http_port, grpc_port, router, worker)
        await asyncio.wait_for(_until_ready(running), _READY_S)
        yield running
    finally:
        for process in (router, worker):
            if process.returncode is None:
                process.terminate()
        for process in (router, worker):
            await asyncio.wait_for(process.wait(), _READY_S)


async def _until_ready(running: Deployment) -> None:
    async with aiohttp.ClientSession() as client:
        while running.router.returncode is None and running.worker.returncode is None:
            try:
                async with client.get(f"{running.url}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            # Nothing tells when another process begins to listen: asking again is all there is.
            await asyncio.sleep(0.05)
    raise RuntimeError("a process of the deployment ended before it was ready")
