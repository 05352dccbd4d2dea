"""Every field that is declared applied, walked from the HTTP body to the engine: through a real router and worker.

What a field changes must be seen in what the engine is given, in the reply, or in the log event of the answer.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from qwenserve.router.http.openai.fields import TABLE
from qwenserve.router.http.transport.field_rows import Effect, Face, Field
from qwenserve.text.assets import load_assets
from qwenserve.worker.engine_choice import BuiltEngine
from qwenserve.worker.engine_interface import EngineRequest
from qwenserve.worker.engines.simulated.engine import SimulatedEngine
from qwenserve.worker.engines.simulated.state import SimulatedConfig
from tests.system.stack import TINY, Stack, running_stack, stack_config, until
from tests.system.test_answer_cache import results

CALL = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
ANSWER = f"<think>\nWell.\n</think>\n\nOne END two.{CALL}\n{CALL}"
TOOLS = [{"type": "function", "function": {"name": "look"}}]

# Values to compare, where the field left out and its example would be the same: with neither, with the first, with
# the second; and what has to be there for a field to mean anything.
VALUES: dict[str, tuple[Any, Any]] = {
    "model": ("qwen3-tiny", "another"),
    "stream": (False, True),
    "top_k": (20, 7),
    "tool_choice": ("auto", "none"),
    "add_generation_prompt": (True, False),
    "thinking_budget": (None, 1),
    "reasoning_effort": ("high", "none"),
    "thinking_token_budget": (None, 1),
    "messages": ([{"role": "user", "content": "hi"}], [{"role": "user", "content": "ho"}]),
    "prompt": ("once", "twice"),
}
_THOUGHT = {"role": "assistant", "content": "ho", "reasoning_content": "hum"}
COMPANIONS: dict[str, dict[str, Any]] = {
    "prefix_stable": {"messages": [{"role": "user", "content": "hi"}, _THOUGHT, {"role": "user", "content": "so?"}]},
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": TOOLS},
    "parallel_tool_calls": {"tools": TOOLS},
    "continue_final_message": {"add_generation_prompt": False},
    "stream_options": {"stream": True},
    "cache": {"temperature": 0},
    "allowed_token_ids": {"temperature": 0},
    "return_tokens_as_token_ids": {"logprobs": 1},
    "reasoning_logprobs": {"logprobs": 1},
}
# What it changes is which worker is asked; the tests of routing policies hold it.
ROUTING = {"prompt_cache_key"}
# What they change is whose kept answer is given; tests/system/test_similar_prompts.py holds it.
SIMILAR = {"cache_similar", "cache_similar_threshold"}
# Does nothing at the first time.
REPEATED = {"cache"}
# Differ between any two replies.
FRESH = {"id", "created", "prompt_tokens_details"}

ROWS = [
    (face, row)
    for row in TABLE
    for face in (Face.CHAT, Face.COMPLETION)
    if face in row.faces and row.effect is Effect.APPLIED and row.name not in ROUTING | SIMILAR
]


class RecordingEngine(SimulatedEngine):
    """The simulated engine, which also keeps what it was asked."""

    def __init__(self, config: SimulatedConfig) -> None:
        super().__init__(config)
        self.requests: list[EngineRequest] = []

    def submit(self, request: EngineRequest) -> None:
        self.requests.append(request)
        super().submit(request)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recording() -> AsyncIterator[tuple[Stack, RecordingEngine]]:
    assets = load_assets(TINY)
    script = tuple(assets.tokenizer.encode(ANSWER))
    engine = RecordingEngine(
        SimulatedConfig(
            vocab_size=assets.tokenizer.vocab_size,
            eos_token_ids=tuple(sorted(assets.eos_token_ids)),
            max_model_len=2048,
            step_s=0.0,
            answer=script,
        )
    )
    async with running_stack(stack_config(), built=BuiltEngine(engine, "")) as stack:
        yield stack, engine


def without_fresh(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_fresh(each) for name, each in value.items() if name not in FRESH}
    return [without_fresh(each) for each in value] if isinstance(value, list) else value


def streamed(text: str) -> Any:
    """A stream's texts put together, whose pieces depend on the moment, and its token counts if it has any."""
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    deltas = [choice.get("delta", choice) for chunk in chunks for choice in chunk["choices"]]
    texts = [[delta.get(name) or "" for delta in deltas] for name in ("content", "reasoning_content", "text")]
    return ["".join(pieces) for pieces in texts], without_fresh(
        [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    )


async def observed(
    recording: tuple[Stack, RecordingEngine], face: Face, body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> Any:
    """What the engine was given, what came back, and what the log says, without what is new every time."""
    stack, engine = recording
    engine.requests.clear()
    caplog.clear()
    path = "/v1/chat/completions" if face is Face.CHAT else "/v1/completions"
    with caplog.at_level(logging.INFO, logger="qwenserve.answer"):
        async with aiohttp.ClientSession() as session, session.post(stack.url + path, json=body) as reply:
            text = await reply.text()
            own_id = reply.headers["x-request-id"] if {"request_id", "rid"} & body.keys() else ""
            ignored = reply.headers.get("x-ignored-params")
    answered = streamed(text) if body.get("stream") else without_fresh(json.loads(text))
    given = []
    for request in engine.requests:
        values = dataclasses.asdict(request) | {"key": 0}
        if "seed" not in body:
            values["sampling"]["seed"] = 0
        given.append(values)
    labels = [
        {name: record.__dict__["fields"].get(name) for name in ("user", "metadata")}
        for record in caplog.records
        if record.name == "qwenserve.answer"
    ]
    return reply.status, ignored, own_id, answered, given, labels


def kept_answers(stack: Stack) -> float:
    return results(stack).get("kept", 0.0)


def body_of(face: Face, row: Field, value: Any) -> dict[str, Any]:
    base: dict[str, Any] = (
        {"messages": [{"role": "user", "content": "hi"}]} if face is Face.CHAT else {"prompt": "once"}
    )
    fields = {**base, "max_tokens": 100, **COMPANIONS.get(row.name, {})}
    if face is Face.CHAT and fields.get("logprobs"):
        fields["logprobs"] = True
    if row.name == "max_completion_tokens":
        del fields["max_tokens"]  # which it would make an ignored field
    return fields if value is None else {**fields, row.name: value}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("face", "row"), ROWS, ids=[f"{face.name}-{row.name}" for face, row in ROWS])
async def test_an_applied_field_changes_what_the_engine_or_the_caller_gets(
    face: Face, row: Field, recording: tuple[Stack, RecordingEngine], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = VALUES.get(row.name, (None, row.example))
    before = await observed(recording, face, body_of(face, row, first), caplog)
    stack, kept = recording[0], kept_answers(recording[0])
    after = await observed(recording, face, body_of(face, row, second), caplog)
    if row.name in REPEATED:
        await until(lambda: kept_answers(stack) > kept)  # they are written when nobody waits for it any more
    again = await observed(recording, face, body_of(face, row, second), caplog)

    assert before[0] == 200, before
    assert after[1] is None, "it is listed as ignored"
    assert before != again
    assert after == again or row.name in REPEATED


@pytest.mark.asyncio(loop_scope="module")
async def test_choices_draw_from_streams_that_no_other_seed_has(
    recording: tuple[Stack, RecordingEngine], caplog: pytest.LogCaptureFixture
) -> None:
    """All 64 bits of a seed arrive, and no choice has the seed of another request's."""
    seeds = [1, 2, 1 + 2**31, 1 + 2**32, 2**63 - 1, -1]
    drawn = []
    for seed in seeds:
        body = {"prompt": "once", "max_tokens": 1, "n": 2, "seed": seed}
        given = (await observed(recording, Face.COMPLETION, body, caplog))[4]
        drawn += [request["sampling"]["seed"] for request in given]

    assert drawn[::2] == seeds
    assert len(set(drawn)) == 2 * len(seeds)
