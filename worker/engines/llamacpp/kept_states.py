"""States of slots that lie in memory of their own, so that any slot can go on from them. No I/O.

A slot's content is lost with the next request there, and of no use to others while the slot is busy. A copy of it is
neither: writing one takes a few milliseconds where computing it took a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenserve.worker.engines.llamacpp.slots import Slot

# Each is an open file, of which a process may often have no more than 1,024.
_MOST_STATES = 256
# A state goes when another one holds all of it but so much.
_UNIQUE_SHARE = 8


@dataclass(eq=False, slots=True)
class KeptState:
    """A copy of what was in `slot`. `hashes` are those of its full blocks, `size` its bytes (about, until it is
    `written`); `users` counts the threads that read or write its `file`, which stays open meanwhile.
    """

    file: int
    slot: Slot
    hashes: Sequence[int]
    size: int
    last_used: int
    users: int = 0
    written: bool = False


class KeptStates:
    """All of them, within `limit_bytes`: the ones unused for the longest time make room."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._states: dict[KeptState, None] = {}
        # The written ones by the blocks that they hold.
        self._by_block: dict[int, list[KeptState]] = {}

    def __len__(self) -> int:
        return len(self._states)

    def covered(self, hashes: Sequence[int]) -> int:
        """Returns how many of the leading blocks one of the states holds."""
        by_block = self._by_block
        for place, value in enumerate(hashes):
            if value not in by_block:
                return place
        return len(hashes)

    def holder(self, hashes: Sequence[int]) -> KeptState | None:
        """Returns the state with most of the leading blocks; of equal ones that which was used last."""
        count = self.covered(hashes)
        return max(self._by_block[hashes[count - 1]], key=lambda state: state.last_used) if count else None

    def room_for(self, size: int) -> list[KeptState] | None:
        """Takes away what has to go for a new state of that size, and returns it; None, and nothing goes, where there
        can be no room.
        """
        return self._free(size, 1)

    def _free(self, size: int, states: int) -> list[KeptState] | None:
        over = self.used_bytes + size - self.limit_bytes
        too_many = len(self._states) + states - _MOST_STATES
        gone: list[KeptState] = []
        for state in sorted(self._states, key=lambda state: state.last_used) if max(over, too_many) > 0 else ():
            if not state.users:
                gone.append(state)
                over -= state.size
                if over <= 0 and too_many <= len(gone):
                    break
        if over > 0 or too_many > len(gone):
            return None
        for one in gone:
            self.remove(one)
        return gone

    def add(self, state: KeptState) -> None:
        """Counts a state that is to be written."""
        self._states[state] = None
        self.used_bytes += state.size

    def written(self, state: KeptState, size: int) -> list[KeptState]:
        """Notes that a state can be read, and its true size; returns those that go because it has all that they have,
        or because it is larger than was thought.
        """
        self.used_bytes += size - state.size
        state.size, state.written = size, True
        gone = [one for one in self._by_block.get(state.hashes[0], ()) if _adds_little(one, state)]
        for one in gone:
            self.remove(one)
        for value in state.hashes:
            self._by_block.setdefault(value, []).append(state)
        return [*gone, *(self._free(0, 0) or ())]

    def remove(self, state: KeptState) -> None:
        """Forgets a state."""
        del self._states[state]
        self.used_bytes -= state.size
        if state.written:
            for value in state.hashes:
                holders = self._by_block[value]
                holders.remove(state)
                if not holders:
                    del self._by_block[value]

    def clear(self) -> list[KeptState]:
        """Forgets all; returns them."""
        gone = list(self._states)
        self._states, self._by_block, self.used_bytes = {}, {}, 0
        return gone


def _adds_little(old: KeptState, new: KeptState) -> bool:
    if old.users:
        return False
    common = 0
    for one, other in zip(old.hashes, new.hashes, strict=False):
        if one != other:
            break
        common += 1
    return (len(old.hashes) - common) * _UNIQUE_SHARE < len(old.hashes)
