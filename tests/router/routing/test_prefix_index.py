"""What routers know of the workers' prefix caches."""

from __future__ import annotations

import random
from collections.abc import Sequence

from qwenserve.router.routing.prefix_index import PrefixIndex
from qwenserve.runtime.block_hash import DEFAULT_BLOCK_TOKENS as BLOCK_TOKENS
from qwenserve.runtime.block_hash import block_hashes

PROMPT = list(range(10 * BLOCK_TOKENS))


class Clock:
    """Time by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def hashes(prompt: list[int]) -> Sequence[int]:
    return block_hashes(prompt, BLOCK_TOKENS)


def fresh(blocks: int, number: int = 0) -> Sequence[int]:
    """Blocks of a prompt of its own."""
    return hashes([number + 5000, *range(blocks * BLOCK_TOKENS - 1)])


def test_a_match_ends_at_the_first_block_that_differs() -> None:
    index = PrefixIndex()
    index.tell("a", [], hashes(PROMPT))
    other = [*PROMPT[: 3 * BLOCK_TOKENS + 5], *([7] * 200)]

    assert index.match(hashes(other)) == {"a": 3}


def test_equal_blocks_after_different_ones_are_no_match() -> None:
    index = PrefixIndex()
    index.tell("a", [], hashes(PROMPT))

    assert index.match(hashes([9999, *PROMPT[1:]])) == {}
    assert index.match(()) == {}


def test_each_worker_matches_as_far_as_it_told_or_was_sent() -> None:
    index = PrefixIndex()
    index.tell("a", [], hashes(PROMPT))
    index.record("b", hashes(PROMPT[: 2 * BLOCK_TOKENS]))

    assert index.match(hashes(PROMPT)) == {"a": 10, "b": 2}


def test_what_a_worker_was_sent_goes_on_where_what_it_told_ends() -> None:
    index = PrefixIndex()
    index.tell("a", [], hashes(PROMPT)[:4])
    index.record("a", hashes(PROMPT)[:9])

    assert index.match(hashes(PROMPT)) == {"a": 9}


def test_a_part_of_a_block_is_not_indexed() -> None:
    index = PrefixIndex()
    index.record("a", hashes(PROMPT[: BLOCK_TOKENS - 1]))

    assert len(index) == 0


def test_what_was_removed_is_gone_however_it_came() -> None:
    index = PrefixIndex()
    index.tell("a", [], hashes(PROMPT))
    index.record("a", hashes(PROMPT))
    index.tell("a", hashes(PROMPT)[6:], [])
    # The worker gave these up before they were told: only the router ever had them.
    index.record("b", hashes(PROMPT))
    index.tell("b", hashes(PROMPT)[3:], [])

    assert index.match(hashes(PROMPT)) == {"a": 6, "b": 3}


def test_what_is_removed_and_stored_at_once_is_there() -> None:
    index = PrefixIndex()
    index.tell("a", [], hashes(PROMPT))
    index.tell("a", hashes(PROMPT), hashes(PROMPT)[:5])

    assert index.match(hashes(PROMPT)) == {"a": 5}


def test_what_was_sent_and_never_told_of_is_forgotten_with_time() -> None:
    clock = Clock()
    index = PrefixIndex(clock=clock)
    index.record("a", hashes(PROMPT))
    clock.now += 16
    index.record("b", fresh(2))
    assert index.match(hashes(PROMPT)) == {"a": 10}

    clock.now += 16
    index.record("b", fresh(2))

    assert index.match(hashes(PROMPT)) == {}
    assert len(index) == 4


def test_starting_over_forgets_what_was_told() -> None:
    index = PrefixIndex()
    index.tell("a", [], hashes(PROMPT))
    index.tell("b", [], hashes(PROMPT))
    index.start_over("a")
    index.start_over("unknown")
    index.tell("a", [], hashes(PROMPT)[:1])

    assert index.match(hashes(PROMPT)) == {"a": 1, "b": 10}
    assert len(index) == 11


def test_a_worker_that_is_gone_is_forgotten_and_its_neighbours_keep_theirs() -> None:
    index = PrefixIndex()
    index.record("a", hashes(PROMPT))
    index.tell("b", [], hashes(PROMPT))

    index.forget("a")

    assert index.match(hashes(PROMPT)) == {"b": 10}
    assert len(index) == 10


def test_a_full_index_forgets_the_oldest_of_whoever_has_most() -> None:
    index = PrefixIndex(max_blocks=10)
    index.tell("a", [], fresh(3, 1))
    index.tell("b", [], fresh(5, 2))
    index.tell("b", [], fresh(4, 3))

    assert len(index) == 10
    assert index.match(fresh(3, 1)) == {"a": 3}
    assert index.match(fresh(5, 2)) == {"b": 3}
    assert index.match(fresh(4, 3)) == {"b": 4}


def test_what_is_forgotten_of_a_prefix_is_its_end() -> None:
    index = PrefixIndex(max_blocks=8)
    index.record("a", hashes(PROMPT[: 6 * BLOCK_TOKENS]))
    index.record("b", fresh(4))

    assert index.match(hashes(PROMPT)) == {"a": 4}


def test_a_beginning_in_use_outlasts_a_flood_of_others() -> None:
    index = PrefixIndex(max_blocks=1000)
    index.tell("a", [], hashes(PROMPT))
    for number in range(1000):
        index.tell("a", [], fresh(7, number))
        index.record("a", hashes(PROMPT))
        assert len(index) <= 1000

    assert index.match(hashes(PROMPT)) == {"a": 10}


def test_the_bound_holds_whatever_comes_and_the_count_is_right() -> None:
    draw = random.Random(3)
    clock = Clock()
    index = PrefixIndex(max_blocks=500, clock=clock)
    for _ in range(3000):
        worker, prompt = draw.choice("abcd"), fresh(draw.randrange(1, 40), draw.randrange(60))
        clock.now += draw.random()
        match draw.randrange(20):
            case 0:
                index.forget(worker)
            case 1:
                index.start_over(worker)
            case number if number < 8:
                index.record(worker, prompt)
            case _:
                index.tell(worker, fresh(5, draw.randrange(60)), prompt)
        assert len(index) <= 500

    for worker in "abcd":
        index.forget(worker)
    assert len(index) == 0
