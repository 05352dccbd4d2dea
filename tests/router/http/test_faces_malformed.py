"""Good requests of each face with a value replaced by another, seeded: answered or refused by name, never a defect."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.router.http.conftest import serve
from tests.router.http.fake_backend import FakeBackend, Script

SEED = 7
ROUNDS = 400
WRONG: tuple[Any, ...] = (None, "x", "", -1.5, 0, 10**30, True, [], [[]], [None], {}, {"a": {}}, {"type": "x"}, "\x00")
MESSAGES: dict[str, Any] = {
    "model": "fake-model",
    "max_tokens": 50,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "b"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1", "is_error": False}]},
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 20},
    "metadata": {"user_id": "u"},
    "stop_sequences": ["END"],
    "temperature": 0.5,
    "output_config": {"effort": "low"},
    "stream": False,
}
RESPONSES: dict[str, Any] = {
    "model": "fake-model",
    "instructions": "i",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
    ],
    "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": False}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "reasoning": {"effort": "low", "summary": None},
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 1,
    "max_output_tokens": 50,
    "metadata": {"a": "b"},
    "stream": False,
}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value inside a body: what holds it, and its key there."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def mutated(body: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    changed = copy.deepcopy(body)
    for _ in range(rng.choice((1, 1, 1, 2))):
        holder, key = rng.choice(list(places(changed)))
        if isinstance(holder, dict) and rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(rng.choice(WRONG))
    return changed


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/messages", MESSAGES), ("/v1/messages/count_tokens", MESSAGES), ("/v1/responses", RESPONSES)],
    ids=["messages", "count_tokens", "responses"],
)
async def test_a_wrong_value_anywhere_is_answered_or_named(
    path: str, body: dict[str, Any], http: aiohttp.ClientSession
) -> None:
    rng = random.Random(SEED)
    seen = set()
    async with serve(backend=FakeBackend(lambda _: Script("ok"))) as served:
        for given in [body, *(mutated(body, rng) for _ in range(ROUNDS))]:
            async with http.post(served.url + path, json=given) as reply:
                seen.add(reply.status)
                assert reply.status < 500, (given, await reply.text())
                if reply.status == 400:
                    error = (await reply.json())["error"]
                    assert error["message"]
                    assert error["param"], (given, error)

    assert {200, 400} <= seen
