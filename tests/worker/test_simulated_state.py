"""The simulated engine's step: answers by hand, time, blocks, faults. The clock is a number."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from qwenserve.worker.engine_interface import Chunk, EngineRefusal, EngineRequest, Finish, FinishReason, Sampling
from qwenserve.worker.engines.simulated.state import Faults, SimulatedConfig, SimulatedState

EOS = 9
CONFIG = SimulatedConfig(
    vocab_size=200,
    max_model_len=64,
    eos_token_ids=(EOS, 8),
    max_running=4,
    kv_blocks=16,
    kv_block_tokens=4,
    prefill_tokens_per_s=100.0,
    prefill_chunk_tokens=20,
    step_s=1.0,
)


def request(key: int, prompt: list[int], salt: str = "", **sampling: Any) -> EngineRequest:
    return EngineRequest(key, prompt, Sampling(**sampling), salt)


def run(state: SimulatedState, now: float = 0.0, limit: int = 1000) -> list[tuple[float, Chunk]]:
    """Steps until nothing is due; returns each chunk with the time it came at."""
    came = []
    for _ in range(limit):
        result = state.step(now)
        came += [(now, chunk) for chunk in result.chunks]
        if result.next_wake is None:
            return came
        now = result.next_wake
    raise AssertionError(f"still running after {limit} steps")


def answers(came: list[tuple[float, Chunk]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for _, chunk in came:
        found.setdefault(chunk.key, []).extend(chunk.token_ids)
    return found


def finishes(came: list[tuple[float, Chunk]]) -> dict[int, Finish]:
    return {chunk.key: chunk.finish for _, chunk in came if chunk.finish is not None}


def answer(prompt: list[int], config: SimulatedConfig = CONFIG, **sampling: Any) -> list[int]:
    state = SimulatedState(config)
    state.submit(request(1, prompt, **sampling))
    return answers(run(state))[1]


def test_cycle_counts_on_from_where_the_prompt_says():
    # 3 ids, none in 64..89, with sum 6: 64 + (0 + 3 + 6) % 26 = 73.
    assert answer([1, 2, 3], max_tokens=4) == [73, 74, 75, 76]
    assert answer([1, 2, 3], replace(CONFIG, seed=15), max_tokens=4) == [88, 89, 64, 65]


def test_cycle_is_the_same_after_a_continuation():
    prompt = [5, 70, 6, 120]
    whole = answer(prompt, max_tokens=12)

    for cut in range(12):
        assert whole[:cut] + answer(prompt + whole[:cut], max_tokens=12 - cut) == whole


def test_echo_repeats_the_prompt_and_ends():
    assert answer([1, 2, 3], replace(CONFIG, answer="echo")) == [1, 2, 3, EOS]


def test_a_fixed_answer_ends_and_can_be_continued():
    config = replace(CONFIG, answer=(10, 11, 12))

    assert answer([1, 2], config) == [10, 11, 12, EOS]
    assert answer([1, 2, 10, 11], config) == [12, EOS]
    assert answer([1, 2, 10, 11, 12], config) == [EOS]


@pytest.mark.parametrize(
    ("sampling", "ids", "finish"),
    [
        ({"max_tokens": 2}, [10, 11], Finish(FinishReason.LENGTH)),
        ({}, [10, 11, 12, EOS], Finish(FinishReason.STOP, EOS)),
        ({"max_tokens": 4}, [10, 11, 12, EOS], Finish(FinishReason.STOP, EOS)),
        ({"stop_token_ids": frozenset({11})}, [10, 11], Finish(FinishReason.STOP, 11)),
        ({"ignore_eos": True, "max_tokens": 6}, [10, 11, 12, EOS, 10, 11], Finish(FinishReason.LENGTH)),
        (
            {"ignore_eos": True, "stop_token_ids": frozenset({EOS})},
            [10, 11, 12, EOS],
            Finish(FinishReason.STOP, EOS),
        ),
        ({"min_tokens": 4}, [10, 11, 12, 10, 10, 11, 12, EOS], Finish(FinishReason.STOP, EOS)),
        (
            {"min_tokens": 2, "stop_token_ids": frozenset({11})},
            [10, 12, 12, EOS],
            Finish(FinishReason.STOP, EOS),
        ),
    ],
)
def test_endings(sampling: dict[str, Any], ids: list[int], finish: Finish):
    state = SimulatedState(replace(CONFIG, answer=(10, 11, 12)))
    state.submit(request(1, [1], **sampling))
    came = run(state)

    assert answers(came) == {1: ids}
    assert finishes(came) == {1: finish}


def test_the_window_ends_an_answer():
    state = SimulatedState(CONFIG)
    state.submit(request(1, [1] * 60, max_tokens=100))
    came = run(state)

    assert len(answers(came)[1]) == 4
    assert finishes(came)[1].reason is FinishReason.LENGTH


def test_logprobs_halve_after_the_generated_id():
    state = SimulatedState(CONFIG)
    state.submit(request(1, [1, 2, 3], max_tokens=1, top_logprobs=2))
    ((_, chunk),) = run(state)

    assert chunk.logprobs is not None
    (logprob,) = chunk.logprobs
    assert (logprob.token_id, logprob.logprob) == (73, 0.0)
    assert logprob.top == [(73, 0.0), (74, -40 - math.log(2))]


def test_bias_decides_by_hand():
    # The script says 73, at logit 20; 74 has -20 - ln 2, and 150 the -42 that most ids have.
    assert answer([1, 2, 3], max_tokens=1, temperature=0.0, logit_bias={74: 40.6}) == [73]
    assert answer([1, 2, 3], max_tokens=1, temperature=0.0, logit_bias={74: 40.8}) == [74]
    assert answer([1, 2, 3], max_tokens=1, temperature=0.0, logit_bias={73: -41.0}) == [74]
    assert answer([1, 2, 3], max_tokens=1, temperature=0.0, logit_bias={150: 62.5}) == [150]


def test_where_all_named_ids_are_out_the_lowest_other_is_taken():
    unlikely = dict.fromkeys(range(73, 105), -100.0)

    assert answer([1, 2, 3], max_tokens=1, temperature=0.0, logit_bias=unlikely) == [0]
    assert answer([1, 2, 3], max_tokens=1, temperature=0.0, logit_bias=unlikely | {0: -1.0, 1: -1.0}) == [2]


@pytest.mark.parametrize("filters", [{}, {"top_k": 120}, {"top_p": 0.8}, {"min_p": 0.9}])
def test_ids_of_one_logit_are_all_drawn_and_only_those_that_filters_leave(filters: dict[str, Any]):
    unlikely = dict.fromkeys(range(73, 105), -100.0)
    sampled = {
        answer([1, 2, 3], max_tokens=1, temperature=1.0, seed=seed, logit_bias=unlikely, **filters)[0]
        for seed in range(3000)
    }
    others = [token for token in range(200) if not 73 <= token < 105]
    kept = {"top_k": 120, "top_p": math.ceil(0.8 * len(others))}.get(next(iter(filters), ""), len(others))

    assert sampled == set(others[:kept])


def test_only_allowed_ids_are_generated():
    got = answer([1, 2, 3], max_tokens=30, temperature=2.0, seed=5, allowed_token_ids=frozenset({7, 150, 160}))

    assert set(got) == {7, 150, 160}


def test_a_sampled_answer_goes_on_as_it_would_have_after_a_continuation():
    params: dict[str, Any] = {
        "temperature": 1.0,
        "seed": 3,
        "presence_penalty": 0.5,
        "logit_bias": dict.fromkeys((70, 71, 72), 90.0),
    }
    whole = answer([1, 2, 3], max_tokens=12, **params)
    state = SimulatedState(CONFIG)
    rest = Sampling(max_tokens=7, **params)
    state.submit(EngineRequest(1, [1, 2, 3, *whole[:5]], rest, answer_offset=3))

    assert len(set(whole)) > 1
    assert whole[:5] + answers(run(state))[1] == whole


def test_prompt_logprobs_are_those_of_an_answer():
    state = SimulatedState(CONFIG)
    state.submit(EngineRequest(1, [1, 2, 69, 70], Sampling(max_tokens=1), prompt_logprobs=1))
    ((_, chunk),) = run(state)

    # After 1: 64 + (1 + 1) % 26; after 1, 2: 64 + (2 + 3) % 26; after 1, 2, 69: the next one.
    assert chunk.prompt_logprobs == [
        (2, pytest.approx(-62.0), [(66, 0.0)]),
        (69, 0.0, [(69, 0.0)]),
        (70, 0.0, [(70, 0.0)]),
    ]


def test_a_prompt_whose_logprobs_are_asked_for_is_computed_whole():
    state = SimulatedState(CONFIG)
    for key, asked in ((1, None), (2, 0), (3, None)):
        state.submit(EngineRequest(key, [1] * 12, Sampling(max_tokens=1), prompt_logprobs=asked))
        cached = finishes(run(state))[key].cached_tokens
        assert bool(cached) == (key == 3)


def test_prefill_takes_time_by_uncached_tokens():
    state = SimulatedState(CONFIG)
    state.submit(request(1, [1] * 10, max_tokens=2))

    # 10 tokens at 100 a second, then a step of a second; the second step has no prefill.
    assert [time for time, _ in run(state)] == pytest.approx([1.1, 2.1])


def test_long_prompts_are_computed_in_chunks_while_others_go_on():
    state = SimulatedState(CONFIG)
    state.submit(request(1, [1], max_tokens=3))
    state.submit(request(2, [2] * 40, max_tokens=1))
    came = run(state)

    # Step 1: 1 + 19 tokens; step 2: 20; step 3: the last one, and request 2's token.
    assert [time for time, chunk in came if chunk.key == 1] == pytest.approx([1.2, 2.4, 3.41])
    assert [time for time, chunk in came if chunk.key == 2] == pytest.approx([3.41])


def test_decode_time_grows_with_the_batch():
    state = SimulatedState(replace(CONFIG, step_s_per_request=0.5, prefill_tokens_per_s=math.inf))
    for key in (1, 2, 3):
        state.submit(request(key, [key], max_tokens=1))

    assert [time for time, _ in run(state)] == [2.0, 2.0, 2.0]


def test_with_step_time_zero_everything_is_due_at_once():
    state = SimulatedState(replace(CONFIG, step_s=0.0))
    state.submit(request(1, [1] * 30, max_tokens=5))

    assert [time for time, _ in run(state, now=7.0)] == [7.0] * 5


def test_nothing_comes_before_its_time_and_a_late_step_keeps_the_pace():
    state = SimulatedState(replace(CONFIG, prefill_tokens_per_s=math.inf))
    state.submit(request(1, [1], max_tokens=9))

    assert state.step(0.0) == ([], 1.0, "")
    assert state.step(0.9) == ([], 1.0, "")
    assert state.step(1.4).next_wake == 2.0
    assert state.step(5.0).next_wake == 6.0


def test_slots_are_finite_and_given_in_order():
    state = SimulatedState(replace(CONFIG, max_running=2))
    for key in (1, 2, 3):
        state.submit(request(key, [key], max_tokens=2))
    came = run(state)

    assert [chunk.key for _, chunk in came] == [1, 2, 1, 2, 3, 3]


def test_a_request_waits_for_blocks():
    state = SimulatedState(replace(CONFIG, kv_blocks=4))
    state.submit(request(1, [1] * 9, max_tokens=2))
    state.submit(request(2, [2] * 9, max_tokens=2))
    state.step(0.0)

    assert state.load()[:3] == (1, 1, 4)
    assert list(answers(run(state, now=100.0))) == [1, 2]
    assert state.load()[:3] == (0, 4, 4)


def test_the_youngest_gives_way_when_blocks_run_out_and_nobody_notices():
    sampling: dict[str, Any] = {"max_tokens": 14}
    state = SimulatedState(replace(CONFIG, kv_blocks=6))
    state.submit(request(1, [1] * 5, **sampling))
    state.submit(request(2, [2] * 5, **sampling))
    came = run(state)

    assert answers(came) == {1: answer([1] * 5, **sampling), 2: answer([2] * 5, **sampling)}
    last_of_1 = max(time for time, chunk in came if chunk.key == 1)
    assert any(time > last_of_1 for time, chunk in came if chunk.key == 2)
    assert state.load()[:3] == (0, 6, 6)


@pytest.mark.parametrize(
    ("first", "second", "salt", "cached"),
    [
        (list(range(20, 33)), list(range(20, 33)), "", 12),
        (list(range(20, 32)), list(range(20, 32)), "", 8),  # the last id is always computed
        (list(range(20, 33)), [*range(20, 26), 99, 99, 99], "", 4),
        (list(range(20, 33)), list(range(20, 33)), "other tenant", 0),
        (list(range(20, 33)), [19, *range(21, 33)], "", 0),
    ],
)
def test_prefixes_are_reused_by_whole_blocks(first: list[int], second: list[int], salt: str, cached: int):
    state = SimulatedState(CONFIG)
    state.submit(request(1, first, max_tokens=1))
    run(state)
    state.submit(request(2, second, salt, max_tokens=1))
    came = run(state)

    assert finishes(came)[2].cached_tokens == cached
    assert [time for time, _ in came] == pytest.approx([1 + (len(second) - cached) / 100])


def test_answers_are_reused_too():
    state = SimulatedState(CONFIG)
    prompt = [20] * 6
    state.submit(request(1, prompt, max_tokens=6))
    generated = answers(run(state))[1]
    state.submit(request(2, [*prompt, *generated, 20], max_tokens=1))

    assert finishes(run(state))[2].cached_tokens == 12


def test_the_least_recently_used_prefix_goes_first():
    state = SimulatedState(replace(CONFIG, kv_blocks=6))
    for key, start in ((1, 20), (2, 40), (3, 20), (4, 60)):
        state.submit(request(key, list(range(start, start + 9)), max_tokens=1))
        run(state)
    state.submit(request(5, list(range(20, 29)), max_tokens=1))
    state.submit(request(6, list(range(40, 49)), max_tokens=1))
    came = run(state)

    assert finishes(came)[5].cached_tokens == 8
    assert finishes(came)[6].cached_tokens < 8


def test_cache_events_tell_what_is_there():
    state = SimulatedState(replace(CONFIG, kv_blocks=4))
    present: set[int] = set()
    sequences = []
    for key in range(6):
        state.submit(request(key, [key] * 9, max_tokens=3))
        run(state)
        for event in state.kv_events():
            sequences.append(event.sequence)
            assert present >= set(event.removed)
            present = (present - set(event.removed)) | set(event.stored)

    assert sequences == list(range(1, len(sequences) + 1))
    assert 2 <= len(present) <= 4
    assert state.kv_events() == []


def test_aborts_end_waiting_and_running_requests():
    state = SimulatedState(replace(CONFIG, max_running=1))
    state.submit(request(1, [1], max_tokens=9))
    state.submit(request(2, [2], max_tokens=9))
    state.step(0.0)
    for key in (1, 2, 3):
        state.abort(key)
    came = run(state, now=0.5)

    assert finishes(came) == {1: Finish(FinishReason.ABORTED), 2: Finish(FinishReason.ABORTED)}
    assert state.load()[:3] == (0, 16, 16)


@pytest.mark.parametrize("prompt", [[], [1] * 64])
def test_prompts_that_cannot_fit_are_refused(prompt: list[int]):
    with pytest.raises(EngineRefusal) as caught:
        SimulatedState(CONFIG).submit(request(1, prompt))

    assert caught.value.param == "prompt_token_ids"


def test_the_window_is_never_more_than_the_blocks_hold():
    assert replace(CONFIG, kv_blocks=4).window == 16


@pytest.mark.parametrize("fields", [{"answer": ()}, {"answer": (500,)}, {"answer_ids": 300}, {"eos_token_ids": ()}])
def test_configurations_that_cannot_answer_are_refused(fields: dict[str, Any]):
    with pytest.raises(ValueError, match="id"):
        replace(CONFIG, **fields)


def test_it_dies_on_demand():
    state = SimulatedState(replace(CONFIG, faults=Faults(die_after_steps=2)))
    state.submit(request(1, [1], max_tokens=9))
    now: float | None = 0.0
    tokens = 0
    while now is not None:
        result = state.step(now)
        tokens += len(result.chunks)
        now = result.next_wake

    assert tokens == 2
    assert "died" in result.died


def test_it_stalls_on_demand_and_recovers():
    state = SimulatedState(CONFIG)
    state.submit(request(1, [1], max_tokens=3))
    state.inject(Faults(stall_after_steps=1))

    assert len(run(state)) == 1
    state.inject(Faults())
    assert len(run(state, now=50.0)) == 2


def test_it_refuses_and_slows_on_demand():
    state = SimulatedState(
        replace(CONFIG, prefill_tokens_per_s=math.inf, faults=Faults(refuse_after_requests=1, slow_factor=3.0))
    )
    state.submit(request(1, [1], max_tokens=1))

    with pytest.raises(EngineRefusal):
        state.submit(request(2, [2], max_tokens=1))
    assert [time for time, _ in run(state)] == [3.0]
