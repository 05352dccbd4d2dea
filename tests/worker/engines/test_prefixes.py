"""What is copied from slots and back, and when."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from qwenserve.runtime.block_hash import block_hashes
from qwenserve.worker.engine_interface import EngineRequest, Sampling
from qwenserve.worker.engines.llamacpp import memory_files
from qwenserve.worker.engines.llamacpp.cache_news import BLOCK_TOKENS
from qwenserve.worker.engines.llamacpp.kept_states import KeptState
from qwenserve.worker.engines.llamacpp.prefixes import AskedBefore, Place, Prefixes

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")

SYSTEM = list(range(10 * BLOCK_TOKENS))


class Slots:
    """Slots whose threads do at once what they are told."""

    def __init__(self, count: int, kept_bytes: int = 1 << 20) -> None:
        self.prefixes = Prefixes(count, step_tokens=128, kept_bytes=kept_bytes, token_bytes=4)
        self.keys = 0
        self.known: set[int] = set()

    def begin(self, prompt: list[int], salt: str = "") -> Place:
        self.keys += 1
        place = self.prefixes.take(EngineRequest(self.keys, prompt, Sampling(), salt))
        assert place is not None
        if place.keep is not None:
            self.write(place.keep)
        if place.restore is not None:
            self.prefixes.read(place.restore)
        return place

    def write(self, state: KeptState, *, well: bool = True) -> None:
        os.ftruncate(state.file, state.size)
        self.prefixes.written(state, well=well)

    def end(self, place: Place, ids: list[int], *, whole: bool = True) -> KeptState | None:
        keep = self.prefixes.release(place.slot, ids, whole=whole)
        if keep is not None:
            self.write(keep)
        return keep

    def ask(self, ids: list[int], salt: str = "") -> Place:
        place = self.begin(ids, salt)
        self.end(place, ids)
        return place

    def told(self, ids: list[int], salt: str = "") -> int:
        """How many of the ids a router expects here."""
        for event in self.prefixes.events():
            self.known = self.known - set(event.removed) | set(event.stored)
        hashes = block_hashes(ids, BLOCK_TOKENS, salt)
        return next((n for n, value in enumerate(hashes) if value not in self.known), len(hashes)) * BLOCK_TOKENS


@pytest.fixture
def slots() -> Iterator[Slots]:
    slots = Slots(2)
    yield slots
    slots.prefixes.close()


def test_a_prefix_is_there_for_others_while_its_slot_is_busy(slots: Slots) -> None:
    slots.ask([*SYSTEM, 1, 2])
    going_on = slots.begin([*SYSTEM, 1, 2, 3])
    assert going_on.restore is None, "it has its slot"
    other = slots.begin([*SYSTEM, 7])
    assert other.restore is not None
    assert other.slot is not going_on.slot
    assert slots.told(SYSTEM) == len(SYSTEM)


def test_what_is_overwritten_comes_back(slots: Slots) -> None:
    first = [*SYSTEM, *range(5000, 5100)]
    slots.ask(first)
    for other in range(2):
        slots.ask([9000 + other] * 400)
    assert slots.told(first) >= len(first) - BLOCK_TOKENS
    assert slots.begin([*first, 1]).restore is not None


def test_a_conversation_that_goes_on_in_its_slot_is_copied_seldom(slots: Slots) -> None:
    ids, copies = list(SYSTEM), 0
    for turn in range(20):
        place = slots.begin(ids)
        assert place.restore is None
        assert place.keep is None
        ids = [*ids, *range(6000 + 40 * turn, 6040 + 40 * turn)]
        copies += slots.end(place, ids) is not None
    assert copies == 2, "each time that it has doubled"


def test_a_prompt_is_told_once_it_is_computed_and_what_it_overwrites_at_once(slots: Slots) -> None:
    slots = Slots(1, kept_bytes=0)
    slots.ask([*SYSTEM, *[1] * 64])
    ids = [*SYSTEM, *[2] * 64]
    place = slots.begin(ids)
    assert slots.told([*SYSTEM, *[1] * 64]) == len(SYSTEM)
    assert slots.told(ids) == len(SYSTEM)
    slots.prefixes.computed(place.slot)
    assert slots.told(ids) == len(ids)
    slots.end(place, ids[: 2 * BLOCK_TOKENS], whole=False)
    assert slots.told(ids) == 2 * BLOCK_TOKENS


def test_tenants_share_nothing(slots: Slots) -> None:
    slots.ask(SYSTEM, "a")
    other = slots.begin([*SYSTEM, 1], "b")
    assert other.restore is None
    assert slots.told(SYSTEM, "b") == 0
    assert slots.begin([*SYSTEM, 1], "a").reuse, "and it has its own slot"


def test_where_all_slots_are_wanted_only_what_comes_again_is_copied() -> None:
    slots = Slots(1)
    for number in range(5):
        place = slots.begin([9000 + number] * 400)
        assert place.keep is None
        assert slots.end(place, [9000 + number] * 420) is None
    slots.ask([*SYSTEM, 1])
    slots.ask([7000] * 400)
    place = slots.begin([*SYSTEM, 2])
    assert place.restore is None
    assert slots.end(place, [*SYSTEM, 2]) is not None, "asked for a second time"
    slots.ask([7001] * 400)
    assert slots.begin([*SYSTEM, 3]).restore is not None
    slots.prefixes.close()


def test_what_a_request_takes_over_is_copied_before_it_is_overwritten() -> None:
    slots = Slots(1)
    slots.ask([*SYSTEM, *[1] * 200])
    place = slots.begin([*SYSTEM, *[2] * 200])
    assert place.keep is not None
    slots.end(place, [*SYSTEM, *[2] * 200])
    assert slots.begin([*SYSTEM, *[1] * 200, 5]).restore is not None
    slots.prefixes.close()


def test_a_copy_under_way_is_not_made_twice_and_its_slot_comes_last() -> None:
    slots = Slots(3)
    first = slots.begin(SYSTEM)
    slots.ask([1] * 400)
    slots.ask([2] * 400)
    keep = slots.prefixes.release(first.slot, SYSTEM, whole=True)
    assert keep is not None
    other = slots.begin([3] * 400)
    assert other.slot is not first.slot
    again = slots.begin([*SYSTEM[:200], *[4] * 400])
    assert again.slot is first.slot
    assert again.keep is None
    slots.write(keep)
    assert slots.told(SYSTEM) == len(SYSTEM)
    slots.prefixes.close()


def test_beginnings_asked_for_before_are_known_by_fours_and_the_oldest_forgotten() -> None:
    asked = AskedBefore(4)
    assert asked.look(range(10)) == 0
    assert asked.look([*range(6), 77, 78]) == 4
    assert asked.look(range(9)) == 8
    for start in range(100, 500, 100):
        asked.look(range(start, start + 5))
    assert asked.look(range(10)) == 0


def test_what_was_broken_off_or_badly_written_is_not_kept(slots: Slots) -> None:
    place = slots.begin(SYSTEM)
    assert slots.end(place, SYSTEM, whole=False) is None
    keep = slots.prefixes.release(slots.begin(SYSTEM).slot, SYSTEM, whole=True)
    assert keep is not None
    slots.write(keep, well=False)
    with pytest.raises(OSError, match="descriptor"):
        memory_files.size_of(keep.file)
    slots.begin(SYSTEM)
    assert slots.begin([*SYSTEM, 1]).restore is None


def test_a_state_that_is_read_stays_and_one_in_doubt_stays_for_ever(slots: Slots) -> None:
    keep = slots.prefixes.release(slots.begin(SYSTEM).slot, SYSTEM, whole=True)
    assert keep is not None
    slots.prefixes.stop_keeping()
    for number in range(4):
        assert slots.ask([8000 + number] * 400).keep is None
    assert memory_files.size_of(keep.file) == 0, "still open"
    slots.prefixes.close()
    with pytest.raises(OSError, match="descriptor"):
        memory_files.size_of(keep.file)


def test_once_copying_has_failed_nobody_waits_for_it_again(slots: Slots) -> None:
    slots.ask(SYSTEM)
    slots.prefixes.stop_keeping()
    slots.begin([*SYSTEM, 1])
    beside = slots.begin([*SYSTEM, 2])
    assert beside.restore is None
    assert slots.end(beside, [*SYSTEM, 2]) is None


def test_memory_is_bounded() -> None:
    files = len(os.listdir("/proc/self/fd"))
    slots = Slots(2, kept_bytes=40_000)
    for number in range(30):
        slots.ask([number] * 400)
        states = slots.prefixes._kept
        assert states.used_bytes <= 40_000
        assert len(states) < 5
    assert slots.ask([77] * 4000).keep is None
    slots.prefixes.close()
    assert len(os.listdir("/proc/self/fd")) == files
