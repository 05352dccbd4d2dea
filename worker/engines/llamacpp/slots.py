"""Which slot takes a request. No I/O.

llama.cpp would choose by itself. Choosing here keeps prefixes of different tenants apart (`cache_salt`), knows what is
kept outside of the slots, and keeps short prompts from waiting behind long ones: a step computes prompts in the order
of slot numbers, as many tokens as fit, so that a prompt waits for all that is unread in lower slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_MANY_STEPS = 4
# What a slot holds beyond the common prefix is overwritten. A later request may need it: that much of it counts against
# the slot, and less where it can be kept.
_LOST_SHARE = 4
_KEPT_SHARE = 16


@dataclass(slots=True)
class Slot:
    """One of llama.cpp's sequences.

    `token_ids` are those it computed last, `hashes` those of their full blocks, of which `kept` tokens lie outside of
    it too, and `shared` had been asked for before. `last_used` counts requests, and `unread` says how many tokens of
    its prompt a busy slot has still to compute. Its state is being copied while `copying`: a request there waits.
    """

    number: int
    token_ids: list[int] = field(default_factory=list)
    hashes: Sequence[int] = ()
    kept: int = 0
    shared: int = 0
    cache_salt: str = ""
    last_used: int = 0
    busy: bool = False
    unread: int = 0
    copying: bool = False


class Choice(NamedTuple):
    """A slot. Of the prompt it holds `common` tokens, or is to be given the kept state that holds more (`restores`);
    `lost` are those that are then in no slot and kept nowhere.
    """

    slot: Slot
    common: int
    restores: bool
    lost: int


def choose_slot(
    slots: Sequence[Slot],
    prompt: Sequence[int],
    cache_salt: str,
    *,
    step_tokens: int,
    kept_tokens: int = 0,
    keeps: bool = False,
) -> Choice | None:
    """Returns the best free slot, None where all are busy. `slots` are in the order of their numbers.

    `kept_tokens` of the prompt are in a kept state, and what is overwritten is kept where `keeps`. A slot's score is
    the prefix that it saves, less a share of what is overwritten and half of the unread tokens that come first: who
    computes a prefix again delays the other prompt too. A kept state is read where it has a step's tokens more than the
    slot: that waits for the step under way. Among equals, the slot unused for the longest time; a prompt
    that takes many steps looks in the upper half of the free ones first, where few come to stand behind it.
    """
    wanted = list(prompt)  # slices of lists equal slices of lists only
    best: Choice | None = None
    best_rank: tuple[float, bool, bool, int] | None = None
    unread_before = 0
    free = [slot.number for slot in slots if not slot.busy]
    for slot in slots:
        if slot.busy:
            unread_before += slot.unread
            continue
        common = common_prefix(slot.token_ids, wanted) if slot.cache_salt == cache_salt else 0
        restores = kept_tokens >= common + step_tokens
        found = kept_tokens if restores else common
        lost = len(slot.token_ids) - max(common, slot.kept)
        spared = max(0.0, found - lost / (_KEPT_SHARE if keeps else _LOST_SHARE))
        out_of_the_way = len(wanted) - found > _MANY_STEPS * step_tokens and slot.number in free[len(free) // 2 :]
        rank = (spared - unread_before / 2, out_of_the_way, not slot.copying, -slot.last_used)
        if best_rank is None or rank > best_rank:
            best, best_rank = Choice(slot, common, restores, lost), rank
    return best


def common_prefix(a: list[int], b: list[int]) -> int:
    """Returns the length of the common prefix; by halving, so that the comparing is done by slices."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
