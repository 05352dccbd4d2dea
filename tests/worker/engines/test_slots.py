"""Which slot takes a request: a table of situations."""

from __future__ import annotations

import random

import pytest

from qwenserve.worker.engines.llamacpp.slots import Slot, choose_slot, common_prefix

TALK = list(range(1000, 1300))


def _slots(*held: list[int]) -> list[Slot]:
    """Free slots holding these ids, the later ones used more recently; those that hold nothing never were."""
    return [Slot(n, ids, last_used=n + 1 if ids else 0) for n, ids in enumerate(held)]


def _chosen(slots: list[Slot], prompt: list[int], salt: str = "") -> int | None:
    choice = choose_slot(slots, prompt, salt, step_tokens=64)
    return None if choice is None else choice.slot.number


@pytest.mark.parametrize(
    ("held", "prompt", "expected"),
    [
        pytest.param(([], [], []), [1, 2], 0, id="all empty"),
        pytest.param(([1], [], []), [7, 8], 1, id="an empty one before a used one"),
        pytest.param(([1], [2], [3]), [7, 8], 0, id="else the one longest unused"),
        pytest.param(([], TALK, []), [*TALK, 5], 1, id="a conversation goes on"),
        pytest.param((TALK[:100], TALK[:200], TALK), [*TALK, 5], 2, id="the longest prefix"),
        pytest.param(([], [1, 2, 3, *TALK], []), [1, 2, 9, 9], 0, id="a few tokens are not worth a conversation"),
        pytest.param(([9], TALK[:120], [8]), [*TALK[:100], 5, 6], 1, id="a shared beginning is"),
        pytest.param(([], [], [], []), [5] * 300, 2, id="a long prompt stays out of the way"),
    ],
)
def test_choice(held: tuple[list[int], ...], prompt: list[int], expected: int) -> None:
    assert _chosen(_slots(*held), prompt) == expected


def test_busy_slots_are_not_chosen() -> None:
    slots = _slots([], TALK)
    slots[1].busy = True
    assert _chosen(slots, [*TALK, 5]) == 0
    slots[0].busy = True
    assert _chosen(slots, [1]) is None


def test_another_tenants_prefix_is_not_reused() -> None:
    slots = _slots(TALK, [])
    slots[0].cache_salt = "a"
    assert _chosen(slots, TALK, "b") == 1
    assert _chosen(slots, TALK, "a") == 0


def test_nobody_waits_behind_a_long_prompt_for_a_short_prefix() -> None:
    slots = _slots([], [], TALK)
    slots[1].busy, slots[1].unread = True, 5000
    assert _chosen(slots, [*TALK, 5]) == 0
    slots[1].unread = 10
    assert _chosen(slots, [*TALK, 5]) == 2


def test_a_long_prompt_leaves_a_free_slot_below() -> None:
    slots = _slots(*([] for _ in range(6)))
    for slot in slots[:4]:
        slot.busy = True
    assert _chosen(slots, [5] * 3000) == 5
    slots[5].busy, slots[5].unread = True, 3000
    assert _chosen(slots, [6]) == 4


def test_a_prefix_is_not_computed_again_to_be_half_a_prompt_sooner() -> None:
    slots = _slots([], [], TALK)
    slots[1].busy, slots[1].unread = True, 550
    assert _chosen(slots, [*TALK, 5]) == 2
    slots[1].unread = 650
    assert _chosen(slots, [*TALK, 5]) == 0


def test_a_kept_state_is_put_where_nothing_is_lost() -> None:
    slots = _slots(TALK, [*TALK[:100], *[7] * 400], [9] * 50)
    slots[2].kept = 50
    slots[0].busy = True
    choice = choose_slot(slots, [*TALK, 5], "", step_tokens=64, kept_tokens=290, keeps=True)
    assert choice == (slots[2], 0, True, 0)
    slots[0].busy = False
    choice = choose_slot(slots, [*TALK, 5], "", step_tokens=64, kept_tokens=290, keeps=True)
    assert choice == (slots[0], 300, False, 0), "the slot has more"


def test_what_is_kept_elsewhere_is_not_lost() -> None:
    slots = _slots([*TALK[:100], *[7] * 400], [8] * 300)
    slots[0].kept = 400
    slots[1].kept = 300
    choice = choose_slot(slots, [*TALK, 5], "", step_tokens=64, keeps=True)
    assert choice == (slots[0], 100, False, 100)


def test_common_prefix_agrees_with_counting() -> None:
    draw = random.Random(3)
    for _ in range(300):
        a = [draw.randrange(2) for _ in range(draw.randrange(12))]
        b = [draw.randrange(2) for _ in range(draw.randrange(12))]
        counted = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert common_prefix(a, b) == counted
