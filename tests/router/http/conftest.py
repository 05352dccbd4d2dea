from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, cast

import aiohttp
import pytest
from grpc_health.v1 import health_pb2_grpc

from qwenserve.chat.v1 import chat_pb2_grpc
from qwenserve.router.chat.service import ChatCore
from qwenserve.router.grpc_api.chat_servicer import ChatServicer, ModelServicer
from qwenserve.router.grpc_api.tokenizer_servicer import TokenizerServicer
from qwenserve.router.http.shim import make_shim
from qwenserve.router.http.transport.dispatcher import Dispatcher
from qwenserve.router.http.transport.server import HttpServer
from qwenserve.router.shim.main import Shim
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import Config, GrpcConfig, HttpConfig, RouterConfig, ShimConfig
from qwenserve.runtime.grpc_setup import Health, make_server
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.runtime.metrics import RouterMetrics
from qwenserve.tokenizer.v1 import tokenizer_pb2_grpc
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
    *,
    strict: bool = False,
    keys: tuple[str, ...] = (),
    backend: FakeBackend | None = None,
    apart: bool = False,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Serves the faces; leaving the block checks that nothing is left of them. `apart`: they run in a shim, and ask the
    backend over gRPC.
    """
    backend = backend or FakeBackend()
    config = HttpConfig(**{"port": 0, **settings})
    before = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as stack:
        if apart:
            yield await stack.enter_async_context(_served_apart(backend, config, strict=strict, keys=keys))
        else:
            metrics = RouterMetrics()
            shim = make_shim(backend, config, strict=strict, keys=KeyRing(keys), metrics=metrics)
            server = HttpServer(shim, config)
            stack.push_async_callback(server.close)
            port = await server.start()
            yield Served(f"http://127.0.0.1:{port}", port, backend, metrics, server, shim)
    await settled(lambda: not backend.running)
    # The block may be left in another task than it was entered in.
    await settled(lambda: asyncio.all_tasks() - {asyncio.current_task()} <= before)


@contextlib.asynccontextmanager
async def _served_apart(
    backend: FakeBackend, http: HttpConfig, *, strict: bool, keys: tuple[str, ...]
) -> AsyncIterator[Served]:
    async with grpc_router(backend, keys=keys) as address:
        config = Config(http=http, router=RouterConfig(strict=strict), shim=ShimConfig(routers=(address,)))
        shim = Shim(config)
        async with shim.serving(Shutdown()):
            await settled(lambda: not shim.backend.ready())
            yield Served(
                f"http://127.0.0.1:{shim.http_port}", shim.http_port, backend, shim.metrics, shim.http, shim.dispatcher
            )


@contextlib.asynccontextmanager
async def grpc_router(
    backend: FakeBackend,
    *,
    keys: tuple[str, ...] = (),
    address: str = "127.0.0.1:0",
    health: health_pb2_grpc.HealthServicer | None = None,
) -> AsyncIterator[str]:
    """Serves the gRPC API in front of a backend, as a router does; yields its address. `health`: another servicer."""
    limits = GrpcConfig()
    ring = KeyRing(keys)
    server = make_server(limits, keys=ring)
    chat_pb2_grpc.add_ChatServiceServicer_to_server(ChatServicer(cast(ChatCore, backend), ring, limits), server)
    chat_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(backend), server)
    tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(TokenizerServicer(backend, ring), server)
    if health is None:
        own = Health(server, ())
        await own.set(True)
    else:
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


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


@pytest.fixture(params=[False, True], ids=["router", "shim"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """The faces in a router, and in a process of their own."""
    async with serve(apart=request.param) as it:
        yield it


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session
