"""Which slot takes a request. No I/O.

llama.cpp would choose by itself. Choosing here keeps prefixes of different tenants apart (`cache_salt`), and keeps
short prompts from waiting behind long ones: a step computes prompts in the order of slot numbers, as many tokens as
fit, so that a prompt waits for all that is unread in lower slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_MANY_STEPS = 4


@dataclass(slots=True)
class Slot:
    """One of llama.cpp's sequences.

    `token_ids` are those it computed last, `last_used` counts requests, and `unread` says how many tokens of its
    prompt a busy slot has still to compute.
    """

    number: int
    token_ids: list[int] = field(default_factory=list)
    cache_salt: str = ""
    last_used: int = 0
    busy: bool = False
    unread: int = 0


def choose_slot(slots: Sequence[Slot], prompt: Sequence[int], cache_salt: str, *, step_tokens: int) -> Slot | None:
    """Returns the best free slot, None where all are busy. `slots` are in the order of their numbers.

    A slot's score is the prefix that it saves, less the unread tokens that come first. Continuing in a slot overwrites
    what it holds beyond the common prefix, which a later request may need: a quarter of that counts against it.
    Among equals, the slot unused for the longest time; a prompt that takes many steps looks in the upper half of the
    free ones first, where few come to stand behind it.
    """
    wanted = list(prompt)  # slices of lists equal slices of lists only
    best: Slot | None = None
    best_rank: tuple[float, bool, int] | None = None
    unread_before = 0
    free = [slot.number for slot in slots if not slot.busy]
    for slot in slots:
        if slot.busy:
            unread_before += slot.unread
            continue
        common = common_prefix(slot.token_ids, wanted) if slot.cache_salt == cache_salt else 0
        spared = max(0.0, common - (len(slot.token_ids) - common) / 4)
        out_of_the_way = len(wanted) - common > _MANY_STEPS * step_tokens and slot.number in free[len(free) // 2 :]
        rank = (spared - unread_before, out_of_the_way, -slot.last_used)
        if best_rank is None or rank > best_rank:
            best, best_rank = slot, rank
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
