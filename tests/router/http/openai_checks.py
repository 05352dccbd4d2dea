"""What the official `openai` client must be able to do, with strict response validation. For any deployment.

`CHECKS` are coroutines that take a `Target`; a test runs them against a fake router here, and against a whole
deployment in the system tests.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.router.http.target import Target

if TYPE_CHECKING:
    import openai
    from openai.lib.streaming.chat import ChatCompletionStreamState
else:
    openai = pytest.importorskip("openai", reason="the official client of OpenAI's API is not installed")
    ChatCompletionStreamState = pytest.importorskip("openai.lib.streaming.chat").ChatCompletionStreamState

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def _user(text: str, role: str = "user") -> list[Any]:
    return [{"role": role, "content": text}]


async def check_chat_whole(target: Target) -> None:
    """A chat, whole: text, reason, exact counts, our request id."""
    async with target.client() as client:
        answer = await client.chat.completions.create(
            model=target.model, messages=_user("Say something."), max_tokens=8, extra_body={"enable_thinking": False}
        )
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage is not None
    assert 1 <= usage.completion_tokens <= 8
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    assert answer._request_id


async def check_chat_streamed(target: Target) -> None:
    """A chat, streamed: role first, one id, one finish, usage last and once."""
    async with target.client() as client:
        stream = await client.chat.completions.create(
            model=target.model,
            messages=_user("Say something."),
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"enable_thinking": False},
        )
        chunks = [chunk async for chunk in stream]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    *body, last = chunks
    assert body[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in body if chunk.choices[0].finish_reason] != []
    assert body[-1].choices[0].finish_reason in ("stop", "length")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in body)
    assert all(chunk.usage is None for chunk in body)
    assert last.choices == []
    assert last.usage is not None
    assert 1 <= last.usage.completion_tokens <= 8


async def check_two_choices(target: Target) -> None:
    """n=2, whole and streamed."""
    async with target.client() as client:
        whole = await client.chat.completions.create(
            model=target.model, messages=_user("Say something."), n=2, max_tokens=6
        )
        assert [choice.index for choice in whole.choices] == [0, 1]
        stream = await client.chat.completions.create(
            model=target.model, messages=_user("Say something."), n=2, max_tokens=6, stream=True
        )
        finished = [c.index async for chunk in stream for c in chunk.choices if c.finish_reason is not None]
    assert sorted(finished) == [0, 1]


async def check_chat_logprobs(target: Target) -> None:
    """Log-probabilities of a chat: one entry per token, streamed and whole."""
    async with target.client() as client:
        asked: dict[str, Any] = {
            "model": target.model, "messages": _user("Say something."), "max_tokens": 5, "logprobs": True,
            "top_logprobs": 2, "temperature": 0, "extra_body": {"enable_thinking": False},
        }  # fmt: skip
        whole = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(**asked, stream=True)
        streamed = [
            entry
            async for chunk in stream
            for choice in chunk.choices
            if choice.logprobs is not None
            for entry in choice.logprobs.content or ()
        ]
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert whole.usage is not None
    assert len(logprobs.content) == len(streamed) == whole.usage.completion_tokens
    for entry in logprobs.content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 2
        assert entry.bytes is not None


async def check_completion(target: Target) -> None:
    """A text completion: whole, streamed, with the old form of log-probabilities, several prompts."""
    async with target.client() as client:
        whole = await client.completions.create(model=target.model, prompt="Once upon", max_tokens=5, logprobs=1)
        assert whole.object == "text_completion"
        logprobs = whole.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens is not None
        assert logprobs.text_offset is not None
        assert len(logprobs.tokens) == len(logprobs.text_offset) == 5
        several = await client.completions.create(model=target.model, prompt=["One", "Two"], n=2, max_tokens=2)
        assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


async def check_completion_streamed(target: Target) -> None:
    """A text completion, streamed.

    The client's type allows no null as finish reason here, though OpenAI sends it in every chunk but the last: such
    a stream passes no strict validation, whoever sends it.
    """
    async with target.client(strict=False) as client:
        stream = await client.completions.create(model=target.model, prompt="Once upon", max_tokens=5, stream=True)
        choices = [chunk.choices[0] async for chunk in stream]
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["length"]
    assert "".join(choice.text for choice in choices)


async def check_one_tool_call(target: Target) -> None:
    """One call, then its result sent back with the message as it came."""
    async with target.client() as client:
        messages = _user(target.one_call)
        answer = await client.chat.completions.create(model=target.model, messages=messages, tools=TOOLS)
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        assert call.type == "function"
        assert call.function.name == "get_weather"
        assert "city" in json.loads(call.function.arguments)
        messages += [
            choice.message.model_dump(),
            {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "sunny"}'},
        ]
        after = await client.chat.completions.create(model=target.model, messages=messages, tools=TOOLS)
    assert after.choices[0].finish_reason in ("stop", "length")
    assert after.choices[0].message.content


async def check_two_tool_calls_streamed(target: Target) -> None:
    """Two calls in one streamed answer, put together by the client's own accumulator."""
    async with target.client() as client:
        stream = await client.chat.completions.create(
            model=target.model, messages=_user(target.two_calls), tools=TOOLS, stream=True
        )
        state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
        async for chunk in stream:
            state.handle_chunk(chunk)
        answer = state.get_final_completion()
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert len(calls) == 2
    assert len({call.id for call in calls}) == 2
    for call in calls:
        assert call.function.name == "get_weather"
        assert "city" in json.loads(call.function.arguments)
    assert answer.choices[0].finish_reason == "tool_calls"


async def check_one_call_at_a_time(target: Target) -> None:
    """`parallel_tool_calls: false` leaves one."""
    async with target.client() as client:
        answer = await client.chat.completions.create(
            model=target.model, messages=_user(target.two_calls), tools=TOOLS, parallel_tool_calls=False
        )
    assert answer.choices[0].message.tool_calls is not None
    assert len(answer.choices[0].message.tool_calls) == 1


async def check_models(target: Target) -> None:
    """Models, listed and one by one; their names in any case."""
    async with target.client() as client:
        listed = await client.models.list()
        assert [model.id for model in listed.data] == [target.model]
        assert (await client.models.retrieve(target.model.upper())).id == target.model
        with pytest.raises(openai.NotFoundError) as missing:
            await client.models.retrieve("nothing")
    assert missing.value.code == "model_not_found"


async def check_errors(target: Target) -> None:
    """Errors arrive as the client's own typed exceptions, with param and code."""
    async with target.client() as client:
        ask = client.chat.completions.create
        with pytest.raises(openai.NotFoundError) as missing:
            await ask(model="nothing", messages=_user("hi"))
        with pytest.raises(openai.BadRequestError) as role:
            await ask(model=target.model, messages=[*_user("hi"), *_user("hi", role="robot")])
        with pytest.raises(openai.BadRequestError) as long:
            await ask(model=target.model, messages=_user("word " * target.max_model_len), stream=True)
    assert missing.value.code == "model_not_found"
    assert role.value.param == "messages[1].role"
    assert long.value.code == "context_length_exceeded"


CHECKS: tuple[Callable[[Target], Awaitable[None]], ...] = (
    check_chat_whole,
    check_chat_streamed,
    check_two_choices,
    check_chat_logprobs,
    check_completion,
    check_completion_streamed,
    check_one_tool_call,
    check_two_tool_calls_streamed,
    check_one_call_at_a_time,
    check_models,
    check_errors,
)
