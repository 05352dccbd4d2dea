"""KV blocks of the simulated engine: counting, prefix reuse, eviction. Knows no requests and no time.

A block is in one of three places:

    free ──take──▶ open (being filled, no hash) ──seal──▶ held (hashed, in use by one or more requests)
      ▲                       │                               │ release (last user)
      │◀───────drop───────────┘                               ▼
      └◀──────────────evicted, least recently used────────── idle (hashed, in use by nobody)

A block's hash (`runtime.block_hash`) covers its parent's, so an equal hash means an equal prefix. Idle blocks count as
available: they are given up for new ones, deepest blocks of a prefix first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple


class Changes(NamedTuple):
    """Hashes of blocks that became reusable, and of blocks that were given up."""

    stored: tuple[int, ...]
    removed: tuple[int, ...]


class KvBlocks:
    """A pool of `total` blocks."""

    def __init__(self, total: int) -> None:
        self.total = total
        # Hashes that came and went since `changes`, as sets that keep their order.
        self._stored: dict[int, None] = {}
        self._removed: dict[int, None] = {}
        self._open = 0
        self._users: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks not in use: free ones and idle ones."""
        return self.total - self._open - len(self._users)

    def match(self, hashes: Sequence[int]) -> int:
        """Returns how many of the first blocks of a prefix are here. Changes nothing."""
        for count, value in enumerate(hashes):
            if value not in self._users and value not in self._idle:
                return count
        return len(hashes)

    def hold(self, hashes: Sequence[int]) -> None:
        """Adds a user to blocks that `match` found."""
        for value in hashes:
            if value in self._idle:
                del self._idle[value]
            self._users[value] = self._users.get(value, 0) + 1

    def take(self, count: int) -> bool:
        """Opens `count` blocks, evicting idle ones where none is free. False, and no change, without room."""
        if count > self.available:
            return False
        self._open += count
        while self._open + len(self._users) + len(self._idle) > self.total:
            evicted, _ = self._idle.popitem(last=False)
            # Stored and evicted between two reads of the events: no event is needed.
            if evicted in self._stored:
                del self._stored[evicted]
            else:
                self._removed[evicted] = None
        return True

    def seal(self, value: int) -> None:
        """Turns one open block into a held one. A twin that is here already is used instead."""
        self._open -= 1
        if value not in self._users and value not in self._idle:
            self._stored[value] = None
        self.hold((value,))

    def release(self, hashes: Sequence[int], opened: int) -> None:
        """Takes a user from held blocks and drops `opened` open ones."""
        self._open -= opened
        for value in reversed(hashes):
            users = self._users.pop(value) - 1
            if users:
                self._users[value] = users
            else:
                self._idle[value] = None

    def changes(self) -> Changes:
        """Returns and forgets what happened since the last call. Removals are meant to be applied first."""
        changes = Changes(tuple(self._stored), tuple(self._removed))
        self._stored = {}
        self._removed = {}
        return changes
