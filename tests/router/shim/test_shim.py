"""A shim in front of several routers: whom it asks, what it takes to another one, and what it does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qwenserve.router.shim.main import Shim
from qwenserve.runtime.config import Config, ConfigError, HttpConfig, RouterConfig, ShimConfig, load_config
from qwenserve.runtime.errors import Draining, InvalidRequest, QueueFull
from qwenserve.runtime.lifecycle import Shutdown
from tests.router.http.conftest import grpc_router
from tests.router.http.fake_backend import FakeBackend
from tests.system.stack import until

ASK = {"messages": [{"role": "user", "content": "one two three"}]}


@contextlib.asynccontextmanager
async def shim(routers: Sequence[str], **settings: Any) -> AsyncIterator[Shim]:
    """A shim that has seen that the routers are ready."""
    made = Shim(
        Config(
            http=HttpConfig(port=0),
            router=RouterConfig(stall_timeout_s=30),
            shim=ShimConfig(routers=tuple(routers), **{"router_wait_s": 30, **settings}),
        )
    )
    async with made.serving(Shutdown()):
        await until(lambda: all(link.ready for link in made.routers.links), 30)
        yield made


@contextlib.asynccontextmanager
async def two(**settings: Any) -> AsyncIterator[tuple[Shim, FakeBackend, FakeBackend]]:
    """A shim in front of two routers."""
    first, second = FakeBackend(), FakeBackend()
    async with (
        grpc_router(first) as one,
        grpc_router(second) as other,
        shim([one, other], **settings) as made,
    ):
        yield made, first, second


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


async def ask(http: aiohttp.ClientSession, made: Shim, **more: Any) -> tuple[int, Any]:
    path = f"http://127.0.0.1:{made.http_port}/v1/chat/completions"
    async with http.post(path, json=ASK, **more) as reply:
        return reply.status, await reply.json()


def url(made: Shim) -> str:
    return f"http://127.0.0.1:{made.http_port}/v1/chat/completions"


async def test_the_router_with_fewer_answers_under_way_is_asked(http: aiohttp.ClientSession) -> None:
    async with two() as (made, first, second):
        gates = asyncio.Event()
        first.gate = second.gate = gates
        asked = [asyncio.ensure_future(ask(http, made)) for _ in range(8)]
        await until(lambda: len(first.requests) + len(second.requests) == 8, 30)
        assert (len(first.requests), len(second.requests)) == (4, 4)
        gates.set()
        assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 8


@pytest.mark.parametrize("refusal", [Draining("going"), QueueFull("full")], ids=lambda error: error.reason)
async def test_what_had_not_begun_is_taken_to_another_router(http: aiohttp.ClientSession, refusal: Exception) -> None:
    async with two() as (made, first, second):
        first.refusal = refusal
        for _ in range(2):
            status, _ = await ask(http, made)
            assert status == 200
        body, _ = made.metrics.render()

    assert len(second.requests) == 2
    assert b"qwenserve_shim_resubmits_total 1.0" in body


async def test_what_every_router_would_refuse_is_asked_once(http: aiohttp.ClientSession) -> None:
    async with two() as (made, first, second):
        first.refusal = second.refusal = InvalidRequest("no", param="messages")
        status, body = await ask(http, made)

    assert (status, body["error"]["param"]) == (400, "messages")
    assert len(first.calls) + len(second.calls) == 1


async def test_full_everywhere_is_said_at_once(http: aiohttp.ClientSession) -> None:
    async with two() as (made, first, second):
        first.refusal = second.refusal = QueueFull("full", retry_after_s=7)
        async with http.post(url(made), json=ASK) as reply:
            assert (reply.status, reply.headers["Retry-After"]) == (429, "7")
    assert (len(first.calls), len(second.calls)) == (1, 1)


async def test_a_router_that_dies_ends_what_had_begun_there_and_nothing_else(http: aiohttp.ClientSession) -> None:
    lost, left = FakeBackend(), FakeBackend()
    lost.gate = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        dying = await stack.enter_async_context(contextlib.AsyncExitStack())
        one = await dying.enter_async_context(grpc_router(lost))
        other = await stack.enter_async_context(grpc_router(left))
        made = await stack.enter_async_context(shim([one, other]))
        answers = [asyncio.ensure_future(http.post(url(made), json={**ASK, "stream": True})) for _ in range(2)]
        await until(lambda: lost.waiting.is_set() and len(left.requests) == 1, 30)
        await dying.aclose()
        texts = [await (await answer).text() for answer in answers]
        assert [(await ask(http, made))[0] for _ in range(3)] == [200] * 3

    lines = [line for text in texts for line in text.split("\n\n")]
    errors = [json.loads(line[6:])["error"] for line in lines if '"error"' in line]
    assert [error["code"] for error in errors] == ["router_lost"]
    assert sum("[DONE]" in text for text in texts) == 1
    assert len(left.requests) == 4


async def test_a_router_that_comes_back_is_used_again_and_waited_for(http: aiohttp.ClientSession) -> None:
    backend = FakeBackend()
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(contextlib.AsyncExitStack())
        address = await first.enter_async_context(grpc_router(backend))
        made = await stack.enter_async_context(shim([address]))
        assert (await ask(http, made))[0] == 200
        await first.aclose()
        waiting = asyncio.ensure_future(ask(http, made))
        await until(lambda: not made.routers.ready, 30)
        assert made.backend.ready()
        await stack.enter_async_context(grpc_router(backend, address=address))
        assert (await waiting)[0] == 200
        assert not made.backend.ready()


async def test_without_a_router_requests_are_refused_with_the_remedy(http: aiohttp.ClientSession) -> None:
    made = Shim(Config(http=HttpConfig(port=0), shim=ShimConfig(routers=("127.0.0.1:1",), router_wait_s=0)))
    async with made.serving(Shutdown()):
        status, body = await ask(http, made)
        async with http.get(f"http://127.0.0.1:{made.http_port}/readyz") as ready:
            assert ready.status == 503
        async with http.get(f"http://127.0.0.1:{made.http_port}/v1/models") as models:
            assert models.status == 503

    assert (status, body["error"]["code"]) == (503, "no_router")
    assert "shim.routers" in body["error"]["message"]


async def test_a_client_that_leaves_ends_the_routers_work(http: aiohttp.ClientSession) -> None:
    async with two() as (made, first, second):
        first.gate = second.gate = asyncio.Event()
        for stream in (False, True):
            asking = asyncio.ensure_future(http.post(url(made), json={**ASK, "stream": stream}))
            await until(lambda: bool(first.running or second.running), 30)
            if asking.done():
                (await asking).close()
            asking.cancel()
            await until(lambda: not first.running and not second.running, 30)


async def test_what_travels_with_a_call_reaches_the_router(http: aiohttp.ClientSession) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"x-request-id": "mine", "x-request-timeout": "50", "traceparent": trace, "x-strict": "true"}
    backend = FakeBackend()
    async with grpc_router(backend, keys=("sesame",)) as address, shim([address]) as made:
        for body, path in ((ASK, "chat/completions"), ({"prompt": "a"}, "completions")):
            async with http.post(
                f"http://127.0.0.1:{made.http_port}/v1/{path}",
                json=body,
                headers={**headers, "Authorization": "Bearer sesame"},
            ) as reply:
                assert reply.status == 200, await reply.text()
        refused, told = await ask(http, made, headers={"Authorization": "Bearer wrong"})
        assert (await ask(http, made))[0] == 401

    assert (refused, told["error"]["code"]) == (401, "invalid_api_key")
    for call in backend.calls:
        remaining = call.remaining_s()
        assert remaining is not None
        assert 0 < remaining <= 50
        assert (call.request_id, call.traceparent, call.strict) == ("mine", trace, True)
        assert call.key_id
    assert len(backend.calls) == 2


async def test_what_a_keys_limits_leave_is_told_in_headers(http: aiohttp.ClientSession) -> None:
    backend = FakeBackend()
    backend.key_limits = {"x-ratelimit-limit-requests": "5"}
    async with grpc_router(backend) as address, shim([address]) as made:
        for stream in (False, True):
            async with http.post(url(made), json={**ASK, "stream": stream}) as reply:
                assert reply.headers["x-ratelimit-limit-requests"] == "5"


async def test_a_drain_lets_answers_end(http: aiohttp.ClientSession) -> None:
    backend = FakeBackend()
    backend.gate = asyncio.Event()
    async with grpc_router(backend) as address:
        made = Shim(Config(http=HttpConfig(port=0), shim=ShimConfig(routers=(address,), router_wait_s=30)))
        serving = made.serving(Shutdown())
        await serving.__aenter__()
        asked = asyncio.ensure_future(ask(http, made))
        await backend.waiting.wait()
        leaving = asyncio.ensure_future(serving.__aexit__(None, None, None))
        await until(lambda: made.backend.ready() == "draining", 30)
        backend.gate.set()
        assert (await asked)[0] == 200
        await leaving


class _Falling(health_pb2_grpc.HealthServicer):
    """Says that it serves until `silent` is set, and then nothing any more."""

    def __init__(self) -> None:
        self.silent = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802
        if self.silent.is_set():
            await asyncio.Event().wait()
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


async def test_a_router_that_says_nothing_any_more_is_given_up(http: aiohttp.ClientSession) -> None:
    backend, health = FakeBackend(), _Falling()
    backend.gate = asyncio.Event()
    async with grpc_router(backend, health=health) as address:
        made = Shim(
            Config(
                http=HttpConfig(port=0),
                router=RouterConfig(stall_timeout_s=0.2),
                shim=ShimConfig(routers=(address,), router_wait_s=30),
            )
        )
        async with made.serving(Shutdown()):
            asked = asyncio.ensure_future(http.post(url(made), json={**ASK, "stream": True}))
            await backend.waiting.wait()
            health.silent.set()
            text = await (await asked).text()
            await until(lambda: not backend.running, 30)

    assert '"router_lost"' in text
    assert "has said nothing for 0.2 s" in text


def test_routers_are_a_list_or_a_text_with_commas() -> None:
    loaded = load_config(environment={}, overrides={"shim.routers": "a:1, b:2"}).config
    assert loaded.shim.routers == ("a:1", "b:2")
    assert load_config(environment={}, overrides={"shim.routers": "[a:1]"}).config.shim.routers == ("a:1",)
    assert load_config(environment={}).config.shim.routers == ("127.0.0.1:50051",)


async def test_no_router_at_all_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"shim\.routers"):
        Shim(Config(shim=ShimConfig(routers=())))
    with pytest.raises(ConfigError, match=r"shim\.ca_file"):
        Shim(Config(shim=ShimConfig(ca_file="/nowhere/ca.pem")))
