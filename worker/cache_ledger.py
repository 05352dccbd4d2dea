"""What a worker's prefix cache holds, kept for routers that want to know. Pure: no tasks, no I/O.

The engine tells changes and forgets them; a router that comes later needs all of it. So the ledger keeps the blocks
that are there, and a log of the last changes. A reader is a place in that log: who keeps up gets what is behind its
place, and who is too far behind, or new, gets a copy of the whole and then goes on from where the copy was made.
Nothing is queued for anybody: a reader that stops reading costs one copy at most.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from qwenserve.worker.engine_interface import KvEvent

# Blocks in one message: 16 kB of hashes, which a router notes in less than a millisecond.
MESSAGE_BLOCKS = 2048
# Changes that are kept for readers behind: beyond, a copy of the whole is shorter for most engines.
_LOG_BLOCKS = 65_536
# The most blocks that are told of; more than any cache on one machine has.
_MAX_BLOCKS = 1_000_000


class News(NamedTuple):
    """What a reader is told next. Number 0: it starts over. What is removed is meant to be removed first."""

    number: int
    removed: Sequence[int]
    stored: Sequence[int]


class _Change(NamedTuple):
    removed: Sequence[int]
    stored: Sequence[int]

    @property
    def size(self) -> int:
        return len(self.removed) + len(self.stored)


class CacheLedger:
    """The blocks of one cache, in the order in which they came, and the last changes."""

    def __init__(self, max_blocks: int = _MAX_BLOCKS, log_blocks: int = _LOG_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._log_blocks = log_blocks
        self._held: dict[int, None] = {}
        self._log: deque[_Change] = deque()
        self._logged = 0
        # The places of the log's first change and of the next one to come.
        self._first = 0
        self.place = 0
        self._next_event: int | None = None
        self._copy: tuple[int, Sequence[int]] = (-1, ())

    def __len__(self) -> int:
        return len(self._held)

    def take(self, events: Sequence[KvEvent]) -> None:
        """Takes an engine's events. After a gap in their numbers what was there before counts as gone, for one of the
        lost events may have said so.
        """
        for sequence, stored, removed in events:
            if self._next_event is not None and sequence != self._next_event:
                self._start_over()
            self._next_event = sequence + 1
            self._apply(removed, stored)

    def guess(self, hashes: Sequence[int], most: int) -> None:
        """Notes that a prompt with these blocks was computed by an engine that tells nothing and keeps `most` blocks,
        those that were used last.
        """
        held = self._held
        fresh = [value for value in hashes if value not in held]
        # The end of a prompt is used up first: what is left of it must be its beginning.
        for value in reversed(hashes):
            held.pop(value, None)
            held[value] = None
        gone = list(islice(held, max(0, len(held) - most)))
        for value in gone:
            del held[value]
        kept = [value for value in fresh if value in held]
        lost = set(gone).difference(fresh)
        if kept or lost:
            self._note([value for value in gone if value in lost], kept)

    def _apply(self, removed: Sequence[int], stored: Sequence[int]) -> None:
        held = self._held
        gone = [value for value in removed if value in held]
        for value in gone:
            held.pop(value, None)
        come = [value for value in stored if value not in held]
        held.update(dict.fromkeys(come))
        over = list(islice(held, max(0, len(held) - self._max_blocks)))
        for value in over:
            del held[value]
        if gone or come:
            self._note(gone, come)
        if over:
            self._note(over, ())

    def _note(self, removed: Sequence[int], stored: Sequence[int]) -> None:
        """Logs a change in parts of no more than a message, and drops the oldest ones."""
        parts = [_Change(removed[n : n + MESSAGE_BLOCKS], ()) for n in range(0, len(removed), MESSAGE_BLOCKS)]
        room = MESSAGE_BLOCKS - (len(parts[-1].removed) if parts else 0)
        if parts and stored and room:
            parts[-1] = parts[-1]._replace(stored=stored[:room])
            stored = stored[room:]
        parts += [_Change((), stored[n : n + MESSAGE_BLOCKS]) for n in range(0, len(stored), MESSAGE_BLOCKS)]
        for part in parts:
            self._log.append(part)
            self._logged += part.size
            self.place += 1
        while self._logged > self._log_blocks and len(self._log) > 1:
            self._logged -= self._log.popleft().size
            self._first += 1

    def _start_over(self) -> None:
        self._held = {}
        self._log.clear()
        self._logged = 0
        # A place that nobody has read up to: every reader starts over.
        self.place += 1
        self._first = self.place

    def reader(self) -> CacheReader:
        """Returns a reader that will be told everything."""
        return CacheReader(self)

    def copy(self) -> Sequence[int]:
        """Returns all blocks of this moment. Readers that come together share one copy."""
        place, blocks = self._copy
        if place != self.place:
            blocks = array("Q", self._held)
            self._copy = (self.place, blocks)
        return blocks

    def reaches(self, place: int) -> bool:
        """Whether the log has everything from a place on."""
        return self._first <= place

    def after(self, place: int) -> tuple[int, Sequence[int], Sequence[int]]:
        """Returns the next changes from a place in the log on, as one, and the place after them."""
        removed: list[int] = []
        stored: list[int] = []
        for change in islice(self._log, place - self._first, None):
            size = len(removed) + len(stored) + change.size
            # Taken together, removals come first: none of them may be of what the same message stores.
            if size > MESSAGE_BLOCKS or (stored and not set(change.removed).isdisjoint(stored)):
                break
            removed += change.removed
            stored += change.stored
            place += 1
        return place, removed, stored


class CacheReader:
    """One router's place in the ledger."""

    __slots__ = ("_ledger", "_number", "_place", "_rest")

    def __init__(self, ledger: CacheLedger) -> None:
        self._ledger = ledger
        self._number = 0
        self._place = -1
        # What is left of a copy.
        self._rest: Sequence[int] = ()

    @property
    def behind(self) -> bool:
        """Whether there is something to tell."""
        return self._place != self._ledger.place or len(self._rest) > 0

    def next(self) -> News | None:
        """Returns the next message's share, or None where all has been told."""
        ledger = self._ledger
        if not self.behind:
            return None
        if self._place < 0 or not ledger.reaches(self._place):
            self._number, self._place, self._rest = 0, ledger.place, ledger.copy()
            return self._next_part()
        if self._rest:
            return self._next_part()
        self._place, removed, stored = ledger.after(self._place)
        return self._numbered(removed, stored)

    def _next_part(self) -> News:
        part, self._rest = self._rest[:MESSAGE_BLOCKS], self._rest[MESSAGE_BLOCKS:]
        return self._numbered((), part)

    def _numbered(self, removed: Sequence[int], stored: Sequence[int]) -> News:
        self._number += 1
        return News(self._number - 1, removed, stored)
