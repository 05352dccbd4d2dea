"""What the slots' contents are in blocks, for routers that look for a prompt's beginning. Pure.

A busy slot's content cannot be used by another request, and the next tokens go over its end; so only free slots count.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from qwenserve.runtime.block_hash import DEFAULT_BLOCK_TOKENS, block_hashes
from qwenserve.worker.engine_interface import KvEvent

# llama.cpp has no blocks: any size would do.
BLOCK_TOKENS = DEFAULT_BLOCK_TOKENS
# The oldest events are dropped; the gap in the numbers tells the reader to start over.
_MAX_EVENTS = 10_000


class SlotBlocks:
    """Notes which blocks come and go as slots become free and busy."""

    def __init__(self) -> None:
        self._slots: dict[int, Sequence[int]] = {}
        # In how many free slots each block is.
        self._count: Counter[int] = Counter()
        self._events: deque[KvEvent] = deque(maxlen=_MAX_EVENTS)
        self._number = 0

    def busy(self, slot: int) -> None:
        """A slot has been given to a request."""
        gone = []
        for value in self._slots.pop(slot, ()):
            self._count[value] -= 1
            if not self._count[value]:
                del self._count[value]
                gone.append(value)
        if gone:
            self._put(KvEvent(self._number, (), gone))

    def free(self, slot: int, token_ids: Sequence[int], cache_salt: str) -> None:
        """A slot's request has ended and has left these ids there."""
        hashes = self._slots[slot] = block_hashes(token_ids, BLOCK_TOKENS, cache_salt)
        come = [value for value in hashes if value not in self._count]
        self._count.update(hashes)
        if come:
            self._put(KvEvent(self._number, come, ()))

    def fetch(self) -> Sequence[KvEvent]:
        """Returns the events since the last call."""
        events = list(self._events)
        self._events.clear()
        return events

    def _put(self, event: KvEvent) -> None:
        self._events.append(event)
        self._number += 1
