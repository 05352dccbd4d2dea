"""Which slot takes a request: the one whose tokens it can go on from, else the one longest unused. No I/O.

llama.cpp would choose by itself. Choosing here keeps prefixes of different tenants apart (`cache_salt`), and
says before the call how much is reused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Slot:
    """One of llama.cpp's sequences. `token_ids` are those it last computed, `last_used` counts requests."""

    number: int
    token_ids: list[int] = field(default_factory=list)
    cache_salt: str = ""
    last_used: int = 0
    busy: bool = False


def choose_slot(slots: Iterable[Slot], prompt: Sequence[int], cache_salt: str) -> Slot | None:
    """Returns the best free slot, None where all are busy.

    Continuing in a slot overwrites what it holds beyond the common prefix, which somebody may come back for: a
    quarter of that loss is set against the gain.
    """
    free = [s for s in slots if not s.busy]
    if not free:
        return None

    wanted = list(prompt)  # slices of lists equal slices of lists only

    def gain(slot: Slot) -> float:
        if slot.cache_salt != cache_salt:
            return 0.0
        common = common_prefix(slot.token_ids, wanted)
        return common - (len(slot.token_ids) - common) / 4

    best_gain, best = max(((gain(s), -s.last_used, -s.number), s) for s in free)
    return best if best_gain[0] > 0 else min(free, key=lambda s: (s.last_used, s.number))


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
