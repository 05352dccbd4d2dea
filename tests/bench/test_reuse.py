"""What `bench reuse` and `bench cache-news` are made of."""

from __future__ import annotations

from collections import Counter

import pytest

from qwenserve.bench.command import main
from qwenserve.bench.reuse.churn import ChurningCache
from qwenserve.bench.reuse.command import cases_of
from qwenserve.bench.reuse.figures import figures_of, skew
from qwenserve.bench.reuse.fleet import Answer, WorkerState
from qwenserve.bench.reuse.memory import memory_of
from qwenserve.bench.reuse.news import Fleet, over_sessions, simulated
from qwenserve.bench.reuse.unbounded import reusable
from qwenserve.bench.reuse.workloads import conversations, mixed, repeated
from qwenserve.worker import cache_teller


def test_conversations_share_system_prompts_and_repeat_by_seed() -> None:
    def made(seed: int) -> list[object]:
        return list(conversations(60, systems=3, system_tokens=20, turns=4, user_tokens=5, answer_tokens=7, seed=seed))

    jobs = conversations(60, systems=3, system_tokens=20, turns=4, user_tokens=5, answer_tokens=7)
    assert len({job.system for job in jobs}) == 3
    assert len({user for job in jobs for user in job.users}) > 200
    assert made(1) == made(1) != made(2)


def test_repeated_questions_follow_zipf_and_a_share_is_deterministic() -> None:
    jobs = repeated(
        4000,
        prompts=100,
        deterministic=0.3,
        systems=5,
        system_tokens=10,
        least_tokens=5,
        most_tokens=20,
        answer_tokens=8,
    )
    counts = [count for _, count in Counter(job.users[0] for job in jobs).most_common()]

    assert 0.26 < sum(job.deterministic for job in jobs) / len(jobs) < 0.34
    assert 1.6 < counts[0] / counts[1] < 2.6
    assert len(counts) > 90


def test_mixed_questions_have_nothing_in_common() -> None:
    jobs = mixed(50)

    assert len({job.system for job in jobs}) == len({job.users[0] for job in jobs}) == 50


@pytest.mark.parametrize(("block", "found"), [(1, [0, 7, 8]), (4, [0, 4, 8])])
def test_a_cache_without_bound_finds_prompts_and_answers_in_blocks(block: int, found: list[int]) -> None:
    first = ([1, 2, 3, 4, 5], [6, 7])
    second = ([1, 2, 3, 4, 5, 6, 7, 8], [9])
    # All of it is there, and the last id is computed all the same.
    third = ([*second[0], 9], [10])

    assert reusable([first, second, third], block) == found


def answer(prompt: int, worker: str, cached: int, cache: str = "miss") -> Answer:
    return Answer(0.0, list(range(prompt)), [1] * 10, "", worker, cache, cached)


def test_figures_split_what_was_saved_by_layer() -> None:
    answers = [
        answer(90, "w0", 0),
        answer(90, "w0", 80),
        answer(90, "w1", 0),
        answer(90, "cache", 90, "hit"),
        answer(90, "w0", 90, "joined"),
    ]
    before, after = [WorkerState(5, 1.0)] * 2, [WorkerState(25, 2.0), WorkerState(15, 1.0)]
    reuse = figures_of(answers, 16, before, after, {"expected": 80})

    assert (reuse.requests, reuse.prompt_tokens, reuse.answer_tokens) == (5, 450, 50)
    assert (reuse.found, reuse.kept, reuse.joined) == (80, 100, 100)
    assert reuse.reusable == 160
    assert reuse.share == 0.5
    assert reuse.saved == 280 / 500
    assert reuse.work_skew == skew([120, 100])
    assert skew([]) == skew([0, 0]) == 1.0


def test_each_workload_has_its_rows() -> None:
    names = {workload: [case.name for case in cases_of(workload, "redis://x")] for workload in ("chats", "repeats")}

    assert names == {
        "chats": ["prefix", "round robin"],
        "repeats": ["prefix, kept answers", "prefix", "round robin"],
    }
    assert cases_of("repeats", "redis://x")[0].extra["store.url"] == "redis://x"
    assert len(cases_of("mixed", "")) == 4


def test_a_churning_cache_keeps_its_size_and_tells_all() -> None:
    cache = ChurningCache(3, 10.0, 5)
    known: set[int] = set()
    for _ in range(20):
        cache.step(0.25)
        for event in cache.fetch():
            known -= set(event.removed)
            known |= set(event.stored)
        assert len(known) == 5

    assert len(cache.stored_at) <= 5


@pytest.mark.long
async def test_news_of_a_small_fleet_come_and_a_new_router_catches_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_teller, "_ALONE_S", 0.1)
    fleet = Fleet(routers=2, workers=2, requests_per_s=20.0, blocks=5, cached_blocks=3000)
    cost = await over_sessions(fleet, 0.5, warm_up_s=0.2)

    assert cost.bytes > 0
    assert 0 < cost.staleness_ms <= cost.staleness_most_ms
    assert cost.caught_up_s > 0


def test_in_a_large_fleet_news_wait_longer() -> None:
    few, many = (simulated(Fleet(n, 8, 4.0, 20, 500), 10.0) for n in (2, 90))

    assert few.staleness_ms < many.staleness_ms
    # Eight changes of 8 bytes for each request of each worker, and what frames them.
    assert 8 * 40 <= few.bytes <= 8 * 60


def test_bad_numbers_are_refused() -> None:
    assert main(["reuse", "chats", "--workers", "0"]) == 2
    assert main(["cache-news", "--rate", "0"]) == 2


def test_memory_is_bounded_however_much_passes_through() -> None:
    memory = memory_of(1000, soak=8)

    assert 0.02 < memory.router_mib < 0.4
    # All of the 8,000 would be 0.6 MiB.
    assert memory.router_soak_mib < 0.4
    assert memory.worker_mib > 0.02
