"""What slots and kept states hold in blocks, for routers that look for a prompt's beginning. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence

from qwenserve.runtime.block_hash import DEFAULT_BLOCK_TOKENS
from qwenserve.worker.engine_interface import KvEvent

# llama.cpp has no blocks: any size would do.
BLOCK_TOKENS = DEFAULT_BLOCK_TOKENS
# The oldest events are dropped; the gap in the numbers tells the reader to start over.
_MAX_EVENTS = 10_000


class CacheNews:
    """Notes which blocks come and go. A block that several hold is there until the last one has lost it."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Sequence[int]] = {}
        # How many holders each block has.
        self._count: Counter[int] = Counter()
        self._events: deque[KvEvent] = deque(maxlen=_MAX_EVENTS)
        self._number = 0

    def holds(self, holder: Hashable, hashes: Sequence[int]) -> None:
        """What a holder has now, in place of what it had."""
        count = self._count
        come = [value for value in hashes if value not in count]
        count.update(hashes)
        gone = []
        for value in self._held.pop(holder, ()):
            count[value] -= 1
            if not count[value]:
                del count[value]
                gone.append(value)
        if hashes:
            self._held[holder] = hashes
        if come or gone:
            self._events.append(KvEvent(self._number, come, gone))
            self._number += 1

    def fetch(self) -> Sequence[KvEvent]:
        """Returns the events since the last call."""
        events = list(self._events)
        self._events.clear()
        return events
