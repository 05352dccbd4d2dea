"""What llama.cpp's slots hold, told in blocks."""

from __future__ import annotations

from qwenserve.runtime.block_hash import block_hashes
from qwenserve.worker.engines.llamacpp.slot_blocks import BLOCK_TOKENS, SlotBlocks

IDS = list(range(4 * BLOCK_TOKENS + 3))
HASHES = list(block_hashes(IDS, BLOCK_TOKENS))


def there(blocks: SlotBlocks, known: set[int]) -> set[int]:
    """What a reader knows after the next events."""
    for event in blocks.fetch():
        known = known - set(event.removed) | set(event.stored)
    return known


def test_a_slot_tells_what_it_holds_while_it_is_free() -> None:
    blocks = SlotBlocks()
    blocks.busy(0)
    assert not blocks.fetch()
    blocks.free(0, IDS, "")
    assert [event.stored for event in blocks.fetch()] == [HASHES]

    blocks.busy(0)
    assert [event.removed for event in blocks.fetch()] == [HASHES]


def test_what_two_slots_hold_is_there_until_both_are_busy() -> None:
    blocks = SlotBlocks()
    blocks.free(0, IDS, "")
    blocks.free(1, IDS[: 2 * BLOCK_TOKENS], "")
    known = there(blocks, set())
    blocks.busy(0)
    known = there(blocks, known)
    assert known == set(HASHES[:2])

    blocks.busy(1)

    assert there(blocks, known) == set()


def test_numbers_go_up_by_one_and_salts_are_kept_apart() -> None:
    blocks = SlotBlocks()
    blocks.free(0, IDS, "tenant")
    blocks.busy(0)
    blocks.free(0, IDS, "")
    events = blocks.fetch()

    assert [event.sequence for event in events] == [0, 1, 2]
    assert list(events[0].stored) == list(block_hashes(IDS, BLOCK_TOKENS, "tenant"))
