from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import aiohttp
import pytest

from qwenserve.router.http.shim import make_shim
from qwenserve.router.http.transport.dispatcher import Dispatcher
from qwenserve.router.http.transport.server import HttpServer
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.metrics import RouterMetrics
from tests.router.http.fake_backend import FakeBackend


class Served(NamedTuple):
    """A shim on a free port, and what is behind it."""

    url: str
    port: int
    backend: FakeBackend
    metrics: RouterMetrics
    server: HttpServer
    shim: Dispatcher


@contextlib.asynccontextmanager
async def serve(
    *, strict: bool = False, keys: tuple[str, ...] = (), backend: FakeBackend | None = None, **settings: Any
) -> AsyncIterator[Served]:
    """Serves a shim; leaving the block checks that nothing is left of it."""
    backend = backend or FakeBackend()
    config = HttpConfig(**{"port": 0, **settings})
    metrics = RouterMetrics()
    before = asyncio.all_tasks()
    shim = make_shim(backend, config, strict=strict, keys=KeyRing(keys), metrics=metrics)
    server = HttpServer(shim, config)
    port = await server.start()
    try:
        yield Served(f"http://127.0.0.1:{port}", port, backend, metrics, server, shim)
    finally:
        await server.close()
    await settled(lambda: not backend.running)
    # The block may be left in another task than it was entered in.
    await settled(lambda: asyncio.all_tasks() - {asyncio.current_task()} <= before)


async def settled(condition: Callable[[], bool], *, turns: int = 20_000) -> None:
    """Waits, for a bounded number of loop turns, until something is so."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    assert condition()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as it:
        yield it


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session
