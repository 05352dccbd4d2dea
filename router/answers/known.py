"""Which answers may be kept: a prompt that nobody has asked before need not ask the store.

To ask costs a router about a tenth of a short request: a message, the waking by its answer, and the way back to where
it was asked. Where requests come quickly, a router therefore learns once which answers are kept (the store's keys), and
then from a log what has been added: everybody who keeps answers writes into it which ones. What it knows is believed
for a fifth of a second, and renewed while there are look-ups that need it. Where they come slowly every look-up asks.

Nothing depends on it but whether the store is asked. An answer that is thought missing though it is kept (for less than
that fifth of a second, or because the log was lost) is computed once more. One that is thought kept though it is not,
because it has expired or another one has the same number, is asked for in vain.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable

from qwenserve.router.answers.policy import ANSWERS, is_answer_key
from qwenserve.runtime.counting import Counters
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.store.interface import News
from qwenserve.store.shared import SharedStore

_LOG = "answers"
# Entries and seconds that the log keeps. An entry has what one router has written in one message.
_LOG_ENTRIES = 4096
_LOG_S = 600.0
_PIECE = 512
# Bytes of an entry: a number of four for each answer of a message.
_MAX_ENTRY_BYTES = 16 * 1024
# For how long it is believed that nothing else has been added, and when it is looked again: early enough to have looked
# by then.
_BELIEVED_S = 0.2
_LOOK_AGAIN_S = 0.15
# Look-ups within that time that are worth learning: a look costs about as much as so many questions.
_WORTH = 8
# The keys are read anew now and then, to forget what has expired, and after a gap; not more often than that.
_LEARN_AGAIN_S = 3600.0
_LEARN_PAUSE_S = 60.0

# A number stands for a key: the last digits of its digest, without the lowest bit. One byte for each, 8 MiB in all;
# with a million keys, one in nine others is taken for one of them.
_DIGITS = 6
_NUMBERS = 1 << (4 * _DIGITS - 1)


def number_of(key: str) -> int:
    """Returns the number that stands for an answer's key."""
    return int(key[-_DIGITS:], 16) >> 1


class KnownAnswers:
    """What a router knows of the answers that all routers keep. `clock` is in seconds."""

    def __init__(self, store: SharedStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        # To ask a store in this process costs nothing.
        self._can_learn = store.shared and store.lists_keys
        # 1 where an answer may be kept whose key has that number; empty until it learns.
        self._seen = bytearray()
        # Where in the log it has read to.
        self._place = ""
        # When the keys were read; None: they are to be read, but not before `_next_learning`.
        self._learned: float | None = None
        self._next_learning = 0.0
        self._believed_until = 0.0
        self._look_at = 0.0
        self._looking = False
        # Look-ups that asked, since when.
        self._asked = 0
        self._asked_since = 0.0
        self._tasks = TaskOwner()
        self.unasked = Counters(
            "qwenserve_answer_cache_unasked", "Choices for which the store was not asked: no router had kept an answer."
        )
        self._unasked = self.unasked.labels()

    def may_have(self, key: str) -> bool:
        """Whether the store is to be asked for an answer. Never waits; it may begin to learn."""
        if not self._can_learn:
            return True
        now = self._clock()
        if now < self._believed_until:
            if now >= self._look_at:
                self._look()
            if self._seen[number_of(key)]:
                return True
            self._unasked.inc()
            return False
        if now - self._asked_since > _BELIEVED_S:
            self._asked, self._asked_since = 0, now
        self._asked += 1
        if self._asked >= _WORTH:
            self._look()
        return True

    def news(self, keys: Iterable[str]) -> News | None:
        """Returns what others are to be told of answers that are being written, and knows of them from now on."""
        if not self._can_learn:
            return None
        numbers = list(map(number_of, keys))
        self._add(numbers)
        return News(_LOG, struct.pack(f"<{len(numbers)}I", *numbers), _LOG_ENTRIES, _LOG_S)

    async def close(self) -> None:
        """Ends what is under way."""
        await self._tasks.close()

    def _look(self) -> None:
        if not self._looking and self._store.answering:
            self._looking = True
            self._tasks.start(self._looked(), name="known answers")

    async def _looked(self) -> None:
        try:
            now = self._clock()
            if self._learned is not None and (
                now - self._learned > _LEARN_AGAIN_S or now - self._believed_until > _LOG_S / 2
            ):
                self._learned = None  # what has expired is to be forgotten, or the log may have been
            if self._learned is not None:
                await self._read_log()
            elif now >= self._next_learning:
                self._next_learning = now + _LEARN_PAUSE_S
                await self._learn()
        finally:
            self._looking = False

    async def _learn(self) -> None:
        """Reads all keys, and what is added meanwhile."""
        self._believed_until = 0.0
        self._seen = bytearray(_NUMBERS)
        self._place = ""
        began = self._clock()
        if await self._read_log(first=True):
            page = 0
            while True:
                found = await self._store.keys(ANSWERS, page)
                if found is None:
                    return
                self._add([number_of(key) for key in found.keys if is_answer_key(key)])
                page = found.following
                if not page:
                    break
            self._learned = began
            await self._read_log()

    async def _read_log(self, *, first: bool = False) -> bool:
        """Reads what was added to the log, and then believes what is known, unless this is only the beginning of it.
        Returns whether that could be read.
        """
        read = 0
        while True:
            began = self._clock()
            added = await self._store.since(_LOG, self._place, limit=_PIECE, max_bytes=_MAX_ENTRY_BYTES)
            if added is None:
                return False
            for place, payload in added:
                self._place = place
                if payload is not None:
                    self._add(_numbers_in(payload))
            read += len(added)
            if len(added) < _PIECE:
                break
        if first:
            return True
        if read >= _LOG_ENTRIES:
            self._learned = None  # older ones may have been dropped before they were read
            return False
        self._believed_until, self._look_at = began + _BELIEVED_S, began + _LOOK_AGAIN_S
        return True

    def _add(self, numbers: Iterable[int]) -> None:
        seen = self._seen
        if seen:
            for number in numbers:
                seen[number] = 1


def _numbers_in(payload: bytes) -> Iterable[int]:
    """Returns the numbers of an entry; of one that none of ours has written, those that can be."""
    count = len(payload) // 4
    numbers = struct.unpack_from(f"<{count}I", payload)
    return numbers if max(numbers, default=0) < _NUMBERS else [number % _NUMBERS for number in numbers]
