"""A router's first and last moments: it answers as soon as it listens, and all that had come when it stops."""

from __future__ import annotations

import asyncio
import contextlib
import json

import aiohttp
import pytest

from qwenserve.router.chat.model import ServedModel
from qwenserve.router.clients.text_service import LocalTextService
from qwenserve.router.main import Router
from qwenserve.runtime.lifecycle import Shutdown
from tests.system.stack import TINY, running_stack, stack_config


async def test_a_step_that_fails_does_not_keep_the_later_ones_from_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ports are free again, and the failure is still told."""

    async def fails(_: LocalTextService) -> None:
        raise RuntimeError("this step failed")

    monkeypatch.setattr(LocalTextService, "close", fails)
    config = stack_config()
    router = Router(config, ServedModel.load(TINY, config))

    with pytest.raises(RuntimeError, match="this step failed"):
        async with router.serving(Shutdown()):
            ports = (router.grpc_port, router.http_port)

    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


BODY = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "temperature": 0}).encode()


async def test_a_request_is_answered_as_soon_as_the_router_listens() -> None:
    """It may come before the router has a connection to a worker, as where several routers share a port."""
    async with running_stack(stack_config()) as stack:
        router = Router(stack.config, ServedModel.load(TINY, stack.config))
        async with aiohttp.ClientSession() as client, router.serving(Shutdown()):
            url = f"http://127.0.0.1:{router.http_port}/v1/chat/completions"
            asked = [asyncio.ensure_future(client.post(url, data=BODY)) for _ in range(3)]
            assert not any(session.ready for session in router.sessions)
            assert [response.status for response in await asyncio.gather(*asked)] == [200] * 3


async def test_a_request_that_is_arriving_when_the_router_stops_is_answered() -> None:
    """Its head had come before the port was closed, its body comes after."""
    async with contextlib.AsyncExitStack() as opened, running_stack(stack_config()) as stack:
        router = Router(stack.config, ServedModel.load(TINY, stack.config))
        await opened.enter_async_context(router.serving(Shutdown()))
        reader, writer = await asyncio.open_connection("127.0.0.1", router.http_port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(BODY)}"
        writer.write(head.encode() + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

        stopped = asyncio.ensure_future(opened.aclose())
        with contextlib.suppress(ConnectionError):
            while True:
                _, other = await asyncio.open_connection("127.0.0.1", router.http_port)
                other.close()
        assert not stopped.done()
        writer.write(BODY)
        reply = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        await asyncio.wait_for(stopped, 30)

    assert reply.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in reply.lower()
