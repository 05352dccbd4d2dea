"""Requests whose time runs out, or whose callers leave, before any worker has heard of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from qwenserve.chat.v1 import chat_pb2_grpc
from qwenserve.runtime.grpc_setup import make_server
from qwenserve.tokenizer.v1 import tokenizer_pb2_grpc
from tests.system.requests import chat
from tests.system.stack import Stack, running_stack, stack_config, until


class SilentTier(tokenizer_pb2_grpc.PromptServiceServicer):
    """Takes prompts and never answers."""

    def __init__(self) -> None:
        self.prompts = 0

    async def Session(self, requests: AsyncIterator[Any], context: Any) -> None:  # noqa: N802  # the proto's name
        async for request in requests:
            self.prompts += len(request.prompts)


@pytest.fixture
async def silent() -> AsyncIterator[tuple[Stack, SilentTier]]:
    tier = SilentTier()
    server = make_server(stack_config().grpc)
    tokenizer_pb2_grpc.add_PromptServiceServicer_to_server(tier, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with running_stack(stack_config(router__tokenizers=[f"127.0.0.1:{port}"])) as stack:
            yield stack, tier
    finally:
        await server.stop(None)


async def outcomes(stack: Stack) -> dict[str, float]:
    async with aiohttp.ClientSession() as client, client.get(f"{stack.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    found = (line.rsplit(" ", 1) for line in lines if line.startswith("qwenserve_requests_total"))
    return {name: float(value) for name, value in found}


async def test_a_deadline_holds_while_the_prompt_is_tokenized(silent: tuple[Stack, SilentTier]) -> None:
    stack, _ = silent
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    async with aiohttp.ClientSession() as client:
        post = client.post(f"{stack.url}/v1/chat/completions", json=body, headers={"x-request-timeout": "0.05"})
        async with post as response:
            error = (await response.json())["error"]

    assert (response.status, error["code"]) == (504, "deadline_exceeded")
    assert await outcomes(stack) == {'qwenserve_requests_total{kind="chat",outcome="deadline_exceeded"}': 1.0}


async def test_a_caller_that_leaves_early_is_counted_as_one(silent: tuple[Stack, SilentTier]) -> None:
    stack, tier = silent
    call = chat_pb2_grpc.ChatServiceStub(stack.channel).CreateChatCompletion(chat())
    await until(lambda: tier.prompts == 1)

    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call

    async def counted() -> None:
        while await outcomes(stack) != {'qwenserve_requests_total{kind="chat",outcome="cancelled"}': 1.0}:
            pass

    await asyncio.wait_for(counted(), 10)
    assert stack.running() == 0


async def test_a_drain_waits_for_requests_that_are_still_being_tokenized(silent: tuple[Stack, SilentTier]) -> None:
    stack, tier = silent
    call = chat_pb2_grpc.ChatServiceStub(stack.channel).CreateChatCompletion(chat())
    await until(lambda: tier.prompts == 1)

    stack.router.core.drain()
    idle = asyncio.ensure_future(stack.router.core.wait_idle())
    await asyncio.sleep(0)
    waited = not idle.done()
    call.cancel()
    await asyncio.wait_for(idle, 10)

    assert waited
