"""Which worker is chosen, and why."""

from __future__ import annotations

import pytest

from qwenserve.router.routing.policy import Candidate, PolicyName, RoutedPrompt, make_policy, with_unread
from qwenserve.runtime.block_hash import DEFAULT_BLOCK_TOKENS as BLOCK_TOKENS
from qwenserve.runtime.block_hash import PromptBlocks

PROMPT = list(range(10 * BLOCK_TOKENS))


POLICIES: list[PolicyName] = ["prefix", "least_loaded", "power_of_two", "round_robin", "session_affinity"]


def worker(name: str, *, ready: bool = True, running: int = 0, queued: int = 0, pending: int = 0) -> Candidate:
    return Candidate(name, name, ready, running, queued, max_running=8, pending_prompt_tokens=pending)


def blocks(prompt: list[int], salt: str = "", session: str = "") -> RoutedPrompt:
    return RoutedPrompt(PromptBlocks(prompt, salt), session)


def names(ranked: list[Candidate]) -> list[str]:
    return [candidate.name for candidate in ranked]


def test_a_cached_prefix_wins_over_an_idle_worker() -> None:
    policy = make_policy("prefix")
    policy.chosen(worker("b"), blocks(PROMPT))

    ranked = policy.rank([worker("a"), worker("b")], blocks(PROMPT))

    assert names(ranked) == ["b", "a"]
    # Not the last block: an engine computes the last token at least.
    assert ranked[0].expected_cached_tokens == len(PROMPT) - BLOCK_TOKENS
    assert ranked[1].expected_cached_tokens == 0


def test_a_long_queue_outweighs_a_cached_prefix() -> None:
    policy = make_policy("prefix")
    policy.chosen(worker("b"), blocks(PROMPT))

    assert names(policy.rank([worker("a"), worker("b", queued=5)], blocks(PROMPT))) == ["a", "b"]


@pytest.mark.parametrize("name", ["prefix", "least_loaded", "session_affinity"])
def test_less_load_wins_where_nothing_is_cached(name: PolicyName) -> None:
    candidates = [worker("a", running=3), worker("b", running=1), worker("c", running=1, pending=10)]

    assert names(make_policy(name).rank(candidates, blocks(PROMPT))) == ["b", "c", "a"]


@pytest.mark.parametrize("name", POLICIES)
def test_a_worker_that_is_not_ready_comes_last(name: PolicyName) -> None:
    candidates = [worker("a", ready=False), worker("b", running=8, queued=100)]

    assert names(make_policy(name).rank(candidates, blocks(PROMPT))) == ["b", "a"]


@pytest.mark.parametrize("name", ["least_loaded", "round_robin"])
def test_ties_go_round(name: PolicyName) -> None:
    policy = make_policy(name)
    candidates = [worker("a"), worker("b"), worker("c")]
    order = []
    for _ in range(6):
        best = policy.rank(candidates, blocks(PROMPT))[0]
        policy.chosen(best, blocks(PROMPT))
        order.append(best.name)

    assert order == ["a", "b", "c", "a", "b", "c"]


def test_prefixes_count_only_under_an_equal_salt() -> None:
    policy = make_policy("prefix")
    policy.chosen(worker("b"), blocks(PROMPT, "tenant"))

    salted = policy.rank([worker("a"), worker("b")], blocks(PROMPT, "tenant"))
    others = [policy.rank([worker("a"), worker("b")], blocks(PROMPT, salt)) for salt in ("", "another")]

    assert salted[0].expected_cached_tokens == len(PROMPT) - BLOCK_TOKENS
    assert [ranked[0].expected_cached_tokens for ranked in others] == [0, 0]


def test_workers_with_blocks_of_different_sizes_are_matched_each_in_its_own() -> None:
    policy = make_policy("prefix")
    small, large = worker("a")._replace(block_tokens=16), worker("b")._replace(block_tokens=64)
    policy.chosen(small, blocks(PROMPT[:100]))
    policy.chosen(large, blocks(PROMPT[:200]))

    ranked = policy.rank([small, large], blocks(PROMPT))

    assert [(c.name, c.expected_cached_tokens) for c in ranked] == [("b", 192), ("a", 96)]


def test_a_worker_without_room_for_the_prompt_is_the_worse_one() -> None:
    full = worker("a")._replace(free_kv_blocks=2, total_kv_blocks=100)
    roomy = worker("b", running=3)._replace(free_kv_blocks=50, total_kv_blocks=100)

    for name in POLICIES[:2]:
        assert names(make_policy(name).rank([full, roomy], blocks(PROMPT))) == ["b", "a"]
    assert names(make_policy("prefix").rank([full, roomy], blocks(PROMPT[:40]))) == ["a", "b"]


@pytest.mark.parametrize(
    ("stamp", "unread", "slots", "expected"),
    [
        pytest.param((3, 0), 2, 8, (5, 0), id="slots are free"),
        pytest.param((7, 0), 2, 8, (8, 1), id="one is"),
        pytest.param((3, 5), 1, 8, (3, 6), id="those that wait go first"),
        pytest.param((9, 0), 1, 8, (9, 1), id="none is"),
        pytest.param((3, 0), 2, 0, (3, 2), id="nothing is known of slots"),
    ],
)
def test_what_a_worker_has_not_read_takes_its_free_slots(
    stamp: tuple[int, int], unread: int, slots: int, expected: tuple[int, int]
) -> None:
    assert with_unread(*stamp, unread, slots) == expected


def test_a_chat_stays_with_its_history_though_another_request_is_on_its_way_there() -> None:
    policy = make_policy("prefix")
    history = list(range(640))
    policy.chosen(worker("a"), blocks(history))
    running, queued = with_unread(2, 0, 1, 8)
    busier, other = worker("a", running=running, queued=queued, pending=60), worker("b", running=2)
    assert names(policy.rank([busier, other], blocks([*history, *range(60)])))[0] == "a"


def test_what_is_cached_needs_no_free_blocks() -> None:
    policy = make_policy("prefix")
    full = worker("a")._replace(free_kv_blocks=1, total_kv_blocks=100)
    policy.chosen(full, blocks(PROMPT))

    assert names(policy.rank([worker("b"), full], blocks([*PROMPT, 1]))) == ["a", "b"]


def test_a_worker_whose_slots_are_taken_counts_as_one_with_a_queue() -> None:
    candidates = [worker("a", running=8), worker("b", running=7)]
    policy = make_policy("prefix")
    policy.chosen(candidates[0], blocks(PROMPT[: 4 * BLOCK_TOKENS]))

    assert names(policy.rank(candidates, blocks(PROMPT))) == ["b", "a"]


def test_a_short_common_beginning_does_not_draw_requests_to_a_busy_worker() -> None:
    policy = make_policy("prefix")
    policy.chosen(worker("b"), blocks(PROMPT[: 2 * BLOCK_TOKENS]))

    assert names(policy.rank([worker("a"), worker("b", running=3)], blocks(PROMPT))) == ["a", "b"]


def test_the_less_loaded_of_two_drawn_ones_is_taken_and_all_are_drawn() -> None:
    policy = make_policy("power_of_two")
    candidates = [worker(name, running=load) for name, load in zip("abcd", range(4), strict=True)]
    firsts = []
    for _ in range(60):
        ranked = policy.rank(candidates, blocks(PROMPT))
        assert ranked[0].running < ranked[1].running
        assert ranked == policy.rank(candidates, blocks(PROMPT))
        policy.chosen(ranked[0], blocks(PROMPT))
        firsts.append(ranked[0].name)

    assert set(firsts) == {"a", "b", "c"}


def test_a_session_keeps_its_worker_in_every_router() -> None:
    candidates = [worker(name) for name in "abcd"]
    placed = {}
    for number in range(40):
        prompt = blocks(PROMPT, session=f"s{number}")
        placed[number] = make_policy("session_affinity").rank(candidates, prompt)[0].name
        assert placed[number] == make_policy("session_affinity", 7).rank(candidates[::-1], prompt)[0].name

    assert set(placed.values()) == set("abcd")
    without_a = {
        n: make_policy("session_affinity").rank(candidates[1:], blocks(PROMPT, session=f"s{n}"))[0].name for n in placed
    }
    assert all(without_a[n] == name for n, name in placed.items() if name != "a")


def test_a_session_leaves_a_worker_that_has_far_more_to_do_than_the_others() -> None:
    policy = make_policy("session_affinity")
    prompt = blocks(PROMPT, session="s")
    home = policy.rank([worker(name) for name in "abc"], prompt)[0].name

    busy = [worker(name, running=8 if name == home else 1, queued=4 if name == home else 0) for name in "abc"]
    assert policy.rank(busy, prompt)[0].name != home
    alike = [worker(name, running=8) for name in "abc"]
    assert policy.rank(alike, prompt)[0].name == home


@pytest.mark.parametrize("name", POLICIES)
def test_every_place_has_a_reason_in_words(name: PolicyName) -> None:
    policy = make_policy(name)
    policy.chosen(worker("a"), blocks(PROMPT))
    tight = worker("a", running=2, queued=1, pending=33)._replace(free_kv_blocks=3, total_kv_blocks=9)

    reason = policy.reason(policy.rank([tight], blocks(PROMPT))[0], blocks(PROMPT))

    if name == "round_robin":
        assert reason == "each worker in turn"
    else:
        assert "33 prompt tokens ahead, 2 of 8 running, 1 waiting, 3 of 9 KV blocks free" in reason
    assert ("288 of 320 prompt tokens probably cached" in reason) == (name in ("prefix", "session_affinity"))
