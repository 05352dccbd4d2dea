"""A thinking budget from either face to the engine and back: the thought is closed there and the answer follows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.text.assets import load_assets
from qwenserve.worker.engine_choice import BuiltEngine
from tests.system.requests import chat
from tests.system.scripted_engine import ScriptedEngine
from tests.system.stack import TINY, Stack, running_stack, stack_config

CLOSING = " Enough thought."
# What the engine thinks and says; see `scripted_engine`.
THOUGHT, ANSWER = "Let me see.", "Something, as you asked: 你好 and more."


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    assets = load_assets(TINY)
    engine = ScriptedEngine(assets.tokenizer, min(assets.eos_token_ids), max_model_len=8192)
    config = stack_config(router__thinking_closing=f"'{CLOSING}'")
    async with running_stack(config, built=BuiltEngine(engine, "f")) as running:
        yield running


async def ask(stack: Stack, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    async with aiohttp.ClientSession() as http, http.post(f"{stack.url}/v1/chat/completions", json=body) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == fields.get("status", 200), answer
        assert "x-ignored-params" not in response.headers
    return answer


async def streamed(stack: Stack, **fields: Any) -> dict[str, Any]:
    """The stream's deltas put together, as one choice."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, **fields}
    found: dict[str, Any] = {"content": "", "reasoning": ""}
    async with aiohttp.ClientSession() as http, http.post(f"{stack.url}/v1/chat/completions", json=body) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    found["content"] += choice["delta"].get("content") or ""
                    found["reasoning"] += choice["delta"].get("reasoning_content") or ""
                    found["finish_reason"] = choice["finish_reason"]
                    found["thinking_cut"] = choice.get("thinking_cut", False)
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking_budget": 3},
        {"thinking_token_budget": 3},
        {"chat_template_kwargs": {"thinking_budget": 3}},
        {"thinking_budget": 3, "reasoning_effort": "high"},
    ],
    ids=lambda fields: "+".join(fields),
)
async def test_every_spelling_closes_the_thought(stack: Stack, fields: dict[str, Any]) -> None:
    answer = await ask(stack, **fields)
    (choice,) = answer["choices"]
    message = choice["message"]

    assert message["reasoning_content"] == f"Let{CLOSING}"  # after the line break that opens the thought
    assert message["content"] == ANSWER
    assert (choice["finish_reason"], choice["thinking_cut"]) == ("stop", True)
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 3
    assert "continued_legs" not in answer["usage"]


async def test_a_stream_is_the_same(stack: Stack) -> None:
    assert await streamed(stack, thinking_budget=3) == {
        "content": ANSWER,
        "reasoning": f"Let{CLOSING}",
        "finish_reason": "stop",
        "thinking_cut": True,
    }


async def test_enough_budget_changes_nothing(stack: Stack) -> None:
    (choice,) = (await ask(stack, thinking_budget=100))["choices"]

    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == (THOUGHT, ANSWER)
    assert "thinking_cut" not in choice


@pytest.mark.parametrize("fields", [{"thinking_budget": 0}, {"reasoning_effort": "none"}], ids=lambda f: "".join(f))
async def test_none_means_that_it_does_not_think(stack: Stack, fields: dict[str, Any]) -> None:
    (choice,) = (await ask(stack, **fields))["choices"]

    assert choice["message"]["content"] == ANSWER
    assert choice["message"]["reasoning_content"] is None


async def test_nonsense_is_named(stack: Stack) -> None:
    async with aiohttp.ClientSession() as http:
        for fields, param in (
            ({"reasoning_effort": "huge"}, "reasoning_effort"),
            ({"thinking_budget": -1}, "thinking_budget"),
            ({"thinking_budget": 0, "enable_thinking": True}, "thinking_budget"),
        ):
            body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
            async with http.post(f"{stack.url}/v1/chat/completions", json=body) as response:
                assert response.status == 400
                assert (await response.json())["error"]["param"] == param


async def test_over_grpc_with_choices_token_ids_and_log_probabilities(stack: Stack) -> None:
    """The closing's ids are reported with the others; no engine has drawn them, so they have no log-probability."""
    request = chat("Hi", thinking_budget=3, n=2, return_token_ids=True, top_logprobs=0)
    call = chat_pb2_grpc.ChatServiceStub(stack.channel).StreamChatCompletion(request)
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    tokenizer = load_assets(TINY).tokenizer
    usage = events[-1].usage

    for index in range(2):
        own = [event for event in events if event.choice_index == index]
        ids = [token_id for event in own for token_id in event.token_ids]
        assert "".join(event.reasoning_delta for event in own) == f"Let{CLOSING}"
        assert "".join(event.content_delta for event in own) == ANSWER
        assert [event.finish.thinking_cut for event in own if event.HasField("finish")] == [True]
        assert len(ids) * 2 == usage.completion_tokens
        closing = tokenizer.encode(f"{CLOSING}\n</think>\n\n")
        logprobs = [item for event in own for item in event.logprobs]
        assert len(logprobs) == len(ids) - len(closing)


async def test_over_grpc_a_budget_of_none_is_explained() -> None:
    async with running_stack(stack_config(router__thinking_budget=0)) as stack:
        stub = chat_pb2_grpc.ChatServiceStub(stack.channel)
        default = await stub.Explain(chat_pb2.ExplainRequest(chat=chat("Hi")))
        asked = await stub.Explain(chat_pb2.ExplainRequest(chat=chat("Hi", conversation={"enable_thinking": True})))

    assert default.prompt.endswith("<think>\n\n</think>\n\n")
    assert not asked.prompt.endswith("</think>\n\n")
