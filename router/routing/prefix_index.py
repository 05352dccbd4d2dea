"""Which worker has which prefix in its cache: what workers tell, and what was sent to them a moment ago.

Blocks have chained hashes (`runtime.block_hash`), so an equal hash means an equal prefix, and a prompt's blocks are
looked up one after the other until one is missing. The index only guides: a wrong entry costs a prefill, never an
answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import indexOf

MAX_BLOCKS = 500_000
# Of a full index, the part that is forgotten at a time.
_SPARE_SHARE = 64
# What was sent to a worker counts for this long, and for twice as long at most: by then the worker has told, or it is
# not there. It is also the longest that a prompt usually waits for its turn.
_SENT_S = 15.0


class _Holder:
    """What one worker is thought to have cached."""

    __slots__ = ("before", "sent", "told")

    def __init__(self) -> None:
        # What it told, in that order.
        self.told: dict[int, None] = {}
        # What was sent to it lately, and in the time before.
        self.sent: dict[int, None] = {}
        self.before: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self.told) + len(self.sent) + len(self.before)

    def match(self, hashes: Sequence[int]) -> int:
        found = _leading(self.told, hashes, 0)
        if self.sent:
            found = _leading(self.sent, hashes, found)
        if self.before:
            found = _leading(self.before, hashes, found)
        return found


class PrefixIndex:
    """Block hashes by worker. Block sizes may be mixed: their hashes differ."""

    def __init__(self, max_blocks: int = MAX_BLOCKS, clock: Callable[[], float] = time.monotonic) -> None:
        """`max_blocks` is for all workers together; a block that two have counts twice. `clock` is in seconds."""
        self._max_blocks = max_blocks
        self._clock = clock
        self._holders: dict[str, _Holder] = {}
        self._blocks = 0
        self._turned = clock()

    def match(self, hashes: Sequence[int]) -> Mapping[str, int]:
        """Returns for each worker that has any how many of the leading blocks it has."""
        if not hashes:
            return {}
        first = hashes[0]
        return {
            worker: holder.match(hashes)
            for worker, holder in self._holders.items()
            if first in holder.told or first in holder.sent or first in holder.before
        }

    def record(self, worker: str, hashes: Sequence[int]) -> None:
        """Notes that a worker was sent a prompt with these blocks. It counts for a while, or until the worker tells."""
        if self._clock() - self._turned >= _SENT_S:
            self._turn()
        holder = self._holder(worker)
        before = len(holder.sent)
        # The last ones first: what is forgotten first of a prefix must be its end.
        holder.sent.update(dict.fromkeys(reversed(hashes)))
        self._blocks += len(holder.sent) - before
        if self._blocks > self._max_blocks * 7 // 8:
            self._refresh(holder, hashes)
        if self._blocks > self._max_blocks:
            self._shrink()

    def tell(self, worker: str, removed: Sequence[int], stored: Sequence[int]) -> None:
        """Notes what has gone from a worker's cache, and then what has come."""
        holder = self._holder(worker)
        size = len(holder)
        if removed:
            told = holder.told
            for value in removed:
                told.pop(value, None)
            for table in (holder.sent, holder.before):
                if table:
                    for value in removed:
                        table.pop(value, None)
        # As in `record`.
        holder.told.update(dict.fromkeys(reversed(stored)))
        self._blocks += len(holder) - size
        if self._blocks > self._max_blocks:
            self._shrink()

    def start_over(self, worker: str) -> None:
        """Forgets what a worker told: it is about to tell all of it again."""
        holder = self._holders.get(worker)
        if holder is not None:
            self._blocks -= len(holder.told)
            holder.told = {}

    def forget(self, worker: str) -> None:
        """Notes that a worker's cache is gone."""
        holder = self._holders.pop(worker, None)
        if holder is not None:
            self._blocks -= len(holder)

    def __len__(self) -> int:
        return self._blocks

    def _holder(self, worker: str) -> _Holder:
        holder = self._holders.get(worker)
        if holder is None:
            holder = self._holders[worker] = _Holder()
        return holder

    def _turn(self) -> None:
        self._turned = self._clock()
        for holder in self._holders.values():
            self._blocks -= len(holder.before)
            holder.before, holder.sent = holder.sent, {}

    @staticmethod
    def _refresh(holder: _Holder, hashes: Sequence[int]) -> None:
        """Moves what is in use behind what is not, where some will soon be forgotten."""
        told = holder.told
        for value in reversed(hashes):
            if value in told:
                told[value] = told.pop(value)

    def _shrink(self) -> None:
        """Forgets the oldest blocks of whichever workers have most, down to somewhat less than there may be."""
        goal = self._max_blocks - self._max_blocks // _SPARE_SHARE
        while self._blocks > goal:
            largest = max(self._holders.values(), key=len)
            second = sorted(map(len, self._holders.values()))[-2] if len(self._holders) > 1 else 0
            # Down to the next one's size, and then some from each in turn.
            part = max(len(largest) - second, self._max_blocks // _SPARE_SHARE, 1)
            part = min(part, self._blocks - goal)
            for table in (largest.before, largest.sent, largest.told):
                oldest = list(islice(table, part))
                for value in oldest:
                    del table[value]
                part -= len(oldest)
                self._blocks -= len(oldest)


def _leading(table: Mapping[int, None], hashes: Sequence[int], start: int) -> int:
    """Returns the place of the first hash from `start` on that is not in the table."""
    if start >= len(hashes) or hashes[start] not in table:
        return start
    try:
        return start + indexOf(map(table.__contains__, islice(hashes, start, None)), False)
    except ValueError:
        return len(hashes)
