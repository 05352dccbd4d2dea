"""What the official `anthropic` client gets from a deployment, whatever it is made of. It checks replies strictly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.router.http.target import Target

TOOLS: Any = [
    {
        "name": "get_weather",
        "description": "Current weather of a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
ORDER = ("thinking", "text", "tool_use")


def library() -> Any:
    """Returns the client's package; skips the test where it is not installed. Untyped, as for who lacks it."""
    return pytest.importorskip("anthropic", reason="the client of Anthropic's API is not installed")


def client_of(target: Target) -> Any:
    """Returns a client that accepts nothing but what the documentation says."""
    return library().AsyncAnthropic(
        base_url=target.base_url,
        api_key=target.api_key,
        max_retries=0,
        _strict_response_validation=True,
    )


def _user(text: str) -> Any:
    return {"role": "user", "content": text}


async def check_whole(target: Target) -> None:
    """Text, reason and counts."""
    async with client_of(target) as client:
        message = await client.messages.create(model=target.model, max_tokens=200, messages=[_user("Hi")])

    assert (message.type, message.role, message.model) == ("message", "assistant", target.model)
    assert [block.type for block in message.content] == ["text"]
    assert message.id.startswith("msg_")
    assert message._request_id
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.output_tokens > 0
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 0


async def check_streamed(target: Target) -> None:
    """Events come in the documented order, and their sum is a message."""
    async with (
        client_of(target) as client,
        client.messages.stream(
            model=target.model,
            max_tokens=200,
            system="Be kind.",
            messages=[_user("Hi")],
            thinking={"type": "enabled", "budget_tokens": 100},
        ) as stream,
    ):
        seen = [event.type async for event in stream]
        message = await stream.get_final_message()

    raw = [
        kind for kind in seen if kind in ("message_start", "message_delta", "message_stop") or "content_block" in kind
    ]
    assert raw[0] == "message_start"
    assert raw[-2:] == ["message_delta", "message_stop"]
    assert raw.count("content_block_start") == raw.count("content_block_stop") == len(message.content)
    kinds = [block.type for block in message.content]
    assert kinds == sorted(kinds, key=ORDER.index)
    assert message.usage.output_tokens > 0


async def check_tool_use(target: Target) -> None:
    """A call whole and streamed, and its result sent back."""
    ask = {"model": target.model, "max_tokens": 300, "tools": TOOLS, "messages": [_user(target.one_call)]}
    async with client_of(target) as client:
        whole = await client.messages.create(**ask)
        async with client.messages.stream(**ask) as stream:
            streamed = await stream.get_final_message()
        for message in (whole, streamed):
            [call] = [block for block in message.content if block.type == "tool_use"]
            assert (call.name, message.stop_reason) == ("get_weather", "tool_use")
            assert target.one_call.count(call.input["city"]) == 1
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "20 degrees"}
        history: Any = [*ask["messages"], {"role": "assistant", "content": streamed.content}]
        answer = await client.messages.create(**{**ask, "messages": [*history, {"role": "user", "content": [result]}]})

    assert answer.content[-1].type in ("text", "tool_use")


async def check_count_tokens(target: Target) -> None:
    """The count is that of the answer's usage, tools included."""
    ask: Any = {"model": target.model, "tools": TOOLS, "system": "Be kind.", "messages": [_user("Hi")]}
    async with client_of(target) as client:
        counted = await client.messages.count_tokens(**ask)
        usage = (await client.messages.create(**ask, max_tokens=1)).usage

    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


async def check_errors(target: Target) -> None:
    """Errors arrive as the client's own typed exceptions, in the documented shape."""
    async with client_of(target) as client:
        anthropic = library()
        ask: Any = client.messages.create
        with pytest.raises(anthropic.NotFoundError) as missing:
            await ask(model="nothing", max_tokens=1, messages=[_user("hi")])
        with pytest.raises(anthropic.BadRequestError) as role:
            await ask(model=target.model, max_tokens=1, messages=[{"role": "robot", "content": "hi"}])
        with pytest.raises(anthropic.BadRequestError) as long:
            await ask(model=target.model, max_tokens=1, messages=[_user("word " * target.max_model_len)], stream=True)
    body: Any = role.value.body
    assert body["type"] == "error"
    assert (body["error"]["type"], body["error"]["param"]) == ("invalid_request_error", "messages[0].role")
    assert body["request_id"] == role.value.request_id
    assert missing.value.body["error"]["type"] == "not_found_error"
    assert long.value.body["error"]["code"] == "context_length_exceeded"


CHECKS: tuple[Callable[[Target], Awaitable[None]], ...] = (
    check_whole,
    check_streamed,
    check_tool_use,
    check_count_tokens,
    check_errors,
)
