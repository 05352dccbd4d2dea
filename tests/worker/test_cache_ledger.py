"""What a worker tells of its prefix cache, change by change and to whoever comes late."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from qwenserve.worker.cache_ledger import MESSAGE_BLOCKS, CacheLedger, CacheReader
from qwenserve.worker.engine_interface import KvEvent


class Router:
    """Keeps what it was told, as a router does."""

    def __init__(self, ledger: CacheLedger) -> None:
        self.reader: CacheReader = ledger.reader()
        self.known: set[int] = set()
        self.expected = 0
        self.beginnings = 0

    def read(self, most: int = 1_000_000) -> None:
        while most and (news := self.reader.next()) is not None:
            most -= 1
            if news.number == 0:
                self.known, self.expected = set(), 0
                self.beginnings += 1
            assert news.number == self.expected
            assert len(news.removed) + len(news.stored) <= MESSAGE_BLOCKS
            self.expected += 1
            self.known.difference_update(news.removed)
            self.known.update(news.stored)


def event(sequence: int, stored: Sequence[int] = (), removed: Sequence[int] = ()) -> KvEvent:
    return KvEvent(sequence, stored, removed)


def test_a_reader_is_told_all_and_then_what_changes() -> None:
    ledger = CacheLedger()
    ledger.take([event(1, [1, 2, 3])])
    router = Router(ledger)
    router.read()
    assert router.known == {1, 2, 3}
    assert router.reader.next() is None

    ledger.take([event(2, [4], [2]), event(3, [], [4])])
    router.read()

    assert router.known == {1, 3}
    assert router.beginnings == 1


def test_what_came_and_went_between_two_readings_ends_as_it_is() -> None:
    ledger = CacheLedger()
    router = Router(ledger)
    ledger.take([event(0, [1])])
    router.read()
    ledger.take([event(1, [2], [1]), event(2, [1], [2]), event(3, [3], [1])])
    router.read()

    assert router.known == {3}


def test_after_a_gap_everybody_starts_over() -> None:
    ledger = CacheLedger()
    router = Router(ledger)
    ledger.take([event(7, [1, 2])])
    router.read()
    ledger.take([event(9, [3])])
    router.read()

    assert router.known == {3}
    assert router.beginnings == 2


def test_a_gap_that_brings_nothing_is_told_too() -> None:
    ledger = CacheLedger()
    router = Router(ledger)
    ledger.take([event(0, [1])])
    router.read()
    ledger.take([event(5)])
    router.read()

    assert router.known == set()


def test_who_is_too_far_behind_gets_a_copy() -> None:
    ledger = CacheLedger(log_blocks=100)
    router = Router(ledger)
    ledger.take([event(0, [1])])
    router.read()
    ledger.take([event(n, [n * 10 + m for m in range(1, 10)], [n * 10 - 1]) for n in range(1, 50)])
    router.read()

    assert router.beginnings == 2
    assert router.known == set(ledger.copy())


def test_a_large_cache_is_told_in_parts_while_it_changes() -> None:
    ledger = CacheLedger()
    ledger.take([event(0, range(3 * MESSAGE_BLOCKS + 5))])
    router = Router(ledger)
    router.read(2)
    ledger.take([event(1, [1_000_000], [0, 3 * MESSAGE_BLOCKS])])
    router.read()

    assert router.beginnings == 1
    assert router.known == set(ledger.copy())
    assert 0 not in router.known


def test_no_more_blocks_are_kept_than_the_bound() -> None:
    ledger = CacheLedger(max_blocks=50)
    router = Router(ledger)
    for number in range(40):
        ledger.take([event(number, range(number * 7, number * 7 + 7))])
        router.read()
        assert len(ledger) <= 50

    assert router.known == set(ledger.copy()) == set(range(230, 280))


def test_a_guess_keeps_what_was_used_last_and_the_beginnings_of_it() -> None:
    ledger = CacheLedger()
    router = Router(ledger)
    ledger.guess([1, 2, 3, 4], 8)
    router.read()
    ledger.guess([11, 12, 13], 8)
    ledger.guess([1, 2, 5, 6], 8)
    router.read()
    assert router.known == {1, 2, 3, 5, 6, 11, 12, 13}

    ledger.guess([21, 22], 8)
    router.read()

    # What was used longest ago has gone, from its end.
    assert router.known == {1, 2, 5, 6, 11, 12, 21, 22}
    assert router.beginnings == 1


def test_a_guess_longer_than_the_cache_is_its_beginning() -> None:
    ledger = CacheLedger()
    router = Router(ledger)
    ledger.guess(range(10), 4)
    router.read()

    assert router.known == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(5))
def test_readers_of_any_pace_know_what_is_there(seed: int) -> None:
    draw = random.Random(seed)
    ledger = CacheLedger(max_blocks=400, log_blocks=300)
    routers = [Router(ledger)]
    sequence = 0
    there: set[int] = set()
    for _ in range(300):
        sequence += 1
        if draw.random() < 0.03:
            sequence += 1
            there = set()
        removed = draw.sample(sorted(there), min(len(there), draw.randrange(6)))
        there -= set(removed)
        stored = draw.sample(range(390), draw.randrange(12))
        there |= set(stored)
        ledger.take([event(sequence, stored, removed)])
        if draw.random() < 0.05:
            routers.append(Router(ledger))
        for router in routers:
            if draw.random() < 0.3:
                router.read(draw.randrange(1, 4))
    for router in routers:
        router.read()
        assert router.known == there == set(ledger.copy())
