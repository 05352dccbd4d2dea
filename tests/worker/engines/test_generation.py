"""The pure part of the embedded engine: which calls a request becomes, and what is made of their tokens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qwenserve.worker.engine_interface import (
    Chunk,
    EngineError,
    EngineRequest,
    Finish,
    FinishReason,
    Sampling,
    TokenLogprob,
)
from qwenserve.worker.engines.llamacpp.chunks import Ended, Failed, Generated, Prefilled, read_chunk
from qwenserve.worker.engines.llamacpp.generation import Generation, call_seed
from qwenserve.worker.engines.llamacpp.outbox import Outbox

END = 9
WINDOW = 32


def _generation(prompt_tokens: int = 4, **sampling: Any) -> Generation:
    request = EngineRequest(1, list(range(prompt_tokens)), Sampling(**sampling))
    return Generation(request, frozenset({END}), WINDOW)


def _call(generation: Generation) -> dict[str, Any]:
    body = generation.next_call(3, reuse_prefix=False)
    assert body is not None
    return dict(body)


def _take(generation: Generation, *ids: int) -> list[Chunk | None]:
    return [generation.take(Generated((i,), None)).chunk for i in ids]


def test_every_parameter_is_sent() -> None:
    body = _call(_generation(temperature=0.5, max_tokens=7, seed=1, logit_bias={5: -1.5}, top_logprobs=0))
    assert {
        key: body[key] for key in ("temperature", "top_k", "top_p", "min_p", "max_tokens", "id_slot", "n_probs")
    } == {
        "temperature": 0.5,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "max_tokens": 7,
        "id_slot": 3,
        "n_probs": 1,
    }
    assert body["logit_bias"] == [[5, -1.5]]
    assert body["repeat_last_n"] == WINDOW
    assert "n_probs" not in _call(_generation())


def test_the_last_token_waits_for_the_finish() -> None:
    generation = _generation(max_tokens=3)
    _call(generation)
    assert _take(generation, 5, 6, 7) == [Chunk(1, (5,)), Chunk(1, (6,)), None]
    assert generation.next_call(3, reuse_prefix=False) is None
    assert generation.finished() == Chunk(1, (7,), None, Finish(FinishReason.LENGTH))


def test_the_window_is_a_limit_too() -> None:
    assert _call(_generation(prompt_tokens=30, max_tokens=100))["max_tokens"] == 2


def test_min_tokens_takes_a_call_of_its_own() -> None:
    generation = _generation(max_tokens=10, min_tokens=2, stop_token_ids=frozenset({8}), logit_bias={8: 3.0, 5: 1.0})
    first = _call(generation)
    assert (first["max_tokens"], first["cache_prompt"]) == (2, False)
    assert first["logit_bias"] == [[5, 1.0], [8, False], [END, False]]
    _take(generation, 5, 6)
    generation.call_ended(at_end_token=False)
    second = _call(generation)
    assert (second["prompt"], second["max_tokens"], second["cache_prompt"]) == ([0, 1, 2, 3, 5, 6], 8, True)
    assert second["logit_bias"] == [[8, 3.0], [5, 1.0]]
    assert second["seed"] != first["seed"]
    assert generation.take(Generated((8,), None)).leave
    assert generation.finished() == Chunk(1, (8,), None, Finish(FinishReason.STOP, 8))


def test_nothing_is_banned_where_nothing_ends_the_answer() -> None:
    body = _call(_generation(min_tokens=5, max_tokens=9, ignore_eos=True))
    assert (body["max_tokens"], body["logit_bias"]) == (9, [])


def test_an_end_token_of_llama_cpp_that_is_not_ours_is_passed() -> None:
    generation = _generation(max_tokens=10)
    _call(generation)
    _take(generation, 5, 6)
    generation.call_ended(at_end_token=True)
    assert _call(generation)["prompt"] == [0, 1, 2, 3, 5, 6]


def test_a_call_without_tokens_is_an_error_and_no_loop() -> None:
    generation = _generation()
    _call(generation)
    with pytest.raises(EngineError):
        generation.call_ended(at_end_token=True)


def test_a_full_slot_ends_the_answer() -> None:
    generation = _generation(max_tokens=10)
    _call(generation)
    _take(generation, 5)
    generation.call_ended(at_end_token=False)
    assert generation.finished().finish == Finish(FinishReason.LENGTH)


def test_unread_tokens_and_the_first_calls_cache_are_noted() -> None:
    generation = _generation(max_tokens=2)
    assert generation.unread == 4
    generation.prefilled(Prefilled(cached=3, unread=1))
    assert generation.unread == 1
    generation.prefilled(Prefilled(cached=7, unread=0))
    assert generation.finished().finish == Finish(FinishReason.ABORTED, None, 3)


def test_call_seeds_fit_llama_cpp() -> None:
    seeds = {call_seed(seed, call) for seed in range(-500, 500) for call in range(3)}
    assert len(seeds) == 3000
    assert all(0 <= s < 0xFFFFFFFF for s in seeds)


def test_chunks_as_llama_cpp_sends_them() -> None:
    progress = {
        "prompt_progress": {"total": 20, "cache": 4, "processed": 12},
        "__verbose": {"tokens": [0], "stop": False},
    }
    assert read_chunk(progress, None) == Prefilled(cached=4, unread=8)
    rows = [{"id": 7, "logprob": -0.5, "top_logprobs": [{"id": 7, "logprob": -0.5}, {"id": 8, "logprob": -1.5}]}]
    token = {"__verbose": {"tokens": [7], "stop": False, "completion_probabilities": rows}}
    assert read_chunk(token, None) == Generated((7,), None)
    assert read_chunk(token, 0) == Generated((7,), (TokenLogprob(7, -0.5, ()),))
    assert read_chunk(token, 2) == Generated((7,), (TokenLogprob(7, -0.5, ((7, -0.5), (8, -1.5))),))
    assert read_chunk({"__verbose": {"tokens": [], "stop": True, "stop_type": "eos"}}, 2) == Ended(True)
    assert read_chunk({"error": {"code": 400, "message": "no"}}, None) == Failed("no")


async def test_chunks_of_one_step_are_handed_over_together() -> None:
    batches: list[list[Chunk]] = []
    arrived = asyncio.Event()

    def hand_over(chunks: list[Chunk], failure: EngineError | None) -> None:
        batches.append(chunks)
        arrived.set()

    async def step(*chunks: Chunk) -> None:
        arrived.clear()
        for chunk in chunks:
            await asyncio.to_thread(outbox.put, chunk)
        await asyncio.wait_for(arrived.wait(), 5)

    outbox = Outbox(asyncio.get_running_loop(), hand_over)
    outbox.put(Chunk(1, (1,)))
    outbox.put(Chunk(2, (1,)))
    await asyncio.wait_for(arrived.wait(), 5)
    await step(Chunk(2, (2,)), Chunk(1, (2,), None, Finish(FinishReason.STOP, 2)))
    await step(Chunk(2, (3,)))
    assert [[c.key for c in batch] for batch in batches] == [[1, 2], [2, 1], [2]]


async def test_a_request_is_in_a_hand_over_once() -> None:
    batches: list[list[Chunk]] = []
    arrived = asyncio.Event()

    def hand_over(chunks: list[Chunk], failure: EngineError | None) -> None:
        batches.append(chunks)
        arrived.set()

    outbox = Outbox(asyncio.get_running_loop(), hand_over)
    row = TokenLogprob(2, -1.0, ())
    for chunk in (Chunk(1, (1,)), Chunk(1, (2,), (row,)), Chunk(1, (), None, Finish(FinishReason.LENGTH))):
        outbox.put(chunk)
    await asyncio.wait_for(arrived.wait(), 5)
    assert batches == [[Chunk(1, [1, 2], [row], Finish(FinishReason.LENGTH))]]
