"""What a request leaves behind: nothing that only the collector can free.

Garbage in circles stays until a collection, thousands of requests later, and what lives long is scattered over the
memory that it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import aiohttp
import grpc
import pytest

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from tests.system.requests import chat
from tests.system.stack import Stack, running_stack, stack_config
from tests.system.test_deployments import tokenizer_tier

Ask = Callable[[Stack, aiohttp.ClientSession], Awaitable[None]]
OURS = ("qwenserve",)
SAYS_HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
ENDLESS = {**SAYS_HELLO, "max_tokens": 4000, "ignore_eos": True}


async def post(stack: Stack, client: aiohttp.ClientSession, path: str, **body: Any) -> int:
    async with client.post(f"{stack.url}{path}", data=json.dumps(body)) as response:
        await response.read()
        return response.status


async def whole(stack: Stack, client: aiohttp.ClientSession) -> None:
    assert await post(stack, client, "/v1/chat/completions", **SAYS_HELLO) == 200


async def streamed(stack: Stack, client: aiohttp.ClientSession) -> None:
    assert await post(stack, client, "/v1/chat/completions", **SAYS_HELLO, stream=True) == 200


async def several_choices(stack: Stack, client: aiohttp.ClientSession) -> None:
    assert await post(stack, client, "/v1/chat/completions", **SAYS_HELLO, n=3, logprobs=True, top_logprobs=2) == 200


async def stopped_by_a_string(stack: Stack, client: aiohttp.ClientSession) -> None:
    assert await post(stack, client, "/v1/chat/completions", **SAYS_HELLO, stream=True, stop=["b"]) == 200


async def in_two_legs(stack: Stack, client: aiohttp.ClientSession) -> None:
    assert await post(stack, client, "/v1/chat/completions", **SAYS_HELLO, stream=True, thinking_budget=1) == 200


async def completion(stack: Stack, client: aiohttp.ClientSession) -> None:
    assert await post(stack, client, "/v1/completions", prompt="Hello", max_tokens=5, echo=True) == 200


async def refused(stack: Stack, client: aiohttp.ClientSession) -> None:
    assert await post(stack, client, "/v1/chat/completions", **SAYS_HELLO, temperature=-1) == 400


async def no_such_path(stack: Stack, client: aiohttp.ClientSession) -> None:
    assert await post(stack, client, "/v1/nothing") == 404


async def deadline(stack: Stack, client: aiohttp.ClientSession) -> None:
    headers = {"x-request-timeout": "0.02"}
    async with client.post(f"{stack.url}/v1/chat/completions", json=ENDLESS, headers=headers) as response:
        assert response.status == 504


async def grpc_whole(stack: Stack, client: aiohttp.ClientSession) -> None:
    await chat_pb2_grpc.ChatServiceStub(stack.channel).CreateChatCompletion(chat(max_tokens=5))


async def grpc_streamed(stack: Stack, client: aiohttp.ClientSession) -> None:
    call = chat_pb2_grpc.ChatServiceStub(stack.channel).StreamChatCompletion(chat(max_tokens=5))
    while await call.read() is not grpc.aio.EOF:
        pass


async def grpc_session(stack: Stack, client: aiohttp.ClientSession) -> None:
    call = chat_pb2_grpc.ChatServiceStub(stack.channel).ChatSession()
    await call.write(chat_pb2.ChatSessionRequest(submits=[chat_pb2.ChatSubmit(handle=1, request=chat(max_tokens=5))]))
    await call.done_writing()
    while await call.read() is not grpc.aio.EOF:
        pass


NUMBERS = itertools.count()


async def new_and_kept(stack: Stack, client: aiohttp.ClientSession) -> None:
    asked = {**SAYS_HELLO, "temperature": 0, "messages": [{"role": "user", "content": f"Number {next(NUMBERS)}"}]}
    assert await post(stack, client, "/v1/chat/completions", **asked) == 200


async def repeated(stack: Stack, client: aiohttp.ClientSession) -> None:
    assert await post(stack, client, "/v1/chat/completions", **SAYS_HELLO, temperature=0) == 200


async def repeated_streams(stack: Stack, client: aiohttp.ClientSession) -> None:
    assert await post(stack, client, "/v1/chat/completions", **SAYS_HELLO, temperature=0, stream=True, n=2) == 200


async def joined(stack: Stack, client: aiohttp.ClientSession) -> None:
    asked = {**SAYS_HELLO, "temperature": 0, "messages": [{"role": "user", "content": f"All {next(NUMBERS)}"}]}
    answers = [post(stack, client, "/v1/chat/completions", **asked, stream=index == 1) for index in range(3)]
    assert await asyncio.gather(*answers) == [200, 200, 200]


async def not_repeatable(stack: Stack, client: aiohttp.ClientSession) -> None:
    assert await post(stack, client, "/v1/chat/completions", **SAYS_HELLO, temperature=1) == 200


async def only_if_kept(stack: Stack, client: aiohttp.ClientSession) -> None:
    asked = {**SAYS_HELLO, "temperature": 0, "messages": [{"role": "user", "content": f"Never {next(NUMBERS)}"}]}
    headers = {"cache-control": "only-if-cached"}
    async with client.post(f"{stack.url}/v1/chat/completions", json=asked, headers=headers) as response:
        assert response.status == 504


KEPT: tuple[Ask, ...] = (new_and_kept, repeated, repeated_streams, joined, not_repeatable, only_if_kept)


@contextlib.contextmanager
def garbage() -> Iterator[Counter[str]]:
    """Yields what is filled, after the block, with the kinds of our objects that the block left to the collector."""
    kinds: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield kinds
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = (type(thing) for thing in gc.garbage)
        kinds.update(f"{kind.__module__}.{kind.__name__}" for kind in found if kind.__module__.split(".")[0] in OURS)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


ASKS: tuple[Ask, ...] = (
    whole,
    streamed,
    several_choices,
    stopped_by_a_string,
    in_two_legs,
    completion,
    refused,
    no_such_path,
    deadline,
    grpc_whole,
    grpc_streamed,
    grpc_session,
)


async def left_by(stack: Stack, asks: Sequence[Ask]) -> dict[str, dict[str, int]]:
    """Returns what each left to the collector, its kinds and how many."""
    left = {}
    async with aiohttp.ClientSession() as client:
        for ask in asks:
            await ask(stack, client)  # the first time makes what is kept
            await settled(stack)
            with garbage() as kinds:
                await ask(stack, client)
                await settled(stack)
            left[ask.__name__] = dict(kinds)
    return left


@pytest.mark.parametrize("tier", [False, True], ids=["tokenizer inside", "tokenizer tier"])
async def test_a_request_leaves_nothing_to_the_collector(tier: bool) -> None:
    async with contextlib.AsyncExitStack() as parts:
        tokenizers = [await parts.enter_async_context(tokenizer_tier())] if tier else []
        stack = await parts.enter_async_context(running_stack(stack_config(router__tokenizers=tokenizers)))
        left = await left_by(stack, ASKS)

    assert left == {ask.__name__: {} for ask in ASKS}


async def test_kept_answers_leave_nothing_to_the_collector() -> None:
    """Fresh ones that are kept, kept ones, one whose generation others join, and one that may not be kept."""
    async with running_stack(stack_config(cache__mode="readwrite")) as stack:
        left = await left_by(stack, KEPT)

    assert left == {ask.__name__: {} for ask in KEPT}


async def settled(stack: Stack) -> None:
    """Returns once the tiers have nothing under way, and their tasks have had their last turns."""
    await stack.until_idle()
    for _ in range(50):
        await asyncio.sleep(0)
