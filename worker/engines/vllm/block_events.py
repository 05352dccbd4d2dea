"""vLLM's news of its prefix cache, in our block hashes.

vLLM names blocks by hashes of its own; with each stored block it sends the ids, which block comes before, and, with the
first block of a prompt, its salt: enough to work out what `runtime.block_hash` makes of it.

It never tells of a block again that stays cached. So what it told before a message was lost is kept here, untold: it
may be gone, but is certainly there again where a new block is stored behind it, and is then told with that one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwenserve.runtime.block_hash import following_hashes, salt_hash
from qwenserve.worker.engine_interface import KvEvent

# Routers look when they get a message; nobody waits for more than these.
_MAX_WAITING = 10_000


class BlockEvents:
    """Translates messages and keeps the events until they are fetched. One of our events for each message."""

    def __init__(self) -> None:
        # By vLLM's names: our hash, and vLLM's name of the block before, None at the beginning of a prompt.
        self._ours: dict[int, tuple[int, int | None]] = {}
        # Names of those that the reader does not know of.
        self._untold: set[int] = set()
        self._waiting: list[KvEvent] = []
        self._next_in = 0
        self._next_out = 0

    def take(self, sequence: int, events: Sequence[Mapping[str, Any]]) -> int:
        """Takes one message: its number and its events. A gap in the numbers is passed on as one. Returns how many
        blocks it told of.
        """
        if sequence != self._next_in:
            self._start_over()
        self._next_in = sequence + 1
        stored: list[int] = []
        removed: list[int] = []
        for event in events:
            # Further groups are the same tokens in other kinds of layers.
            if event.get("group_idx") in (None, 0):
                self._apply(event, stored, removed)
        self._put(stored, removed)
        return len(stored) + len(removed)

    def lost(self) -> None:
        """Nothing more will come: the reader is told to forget what it knows."""
        self._ours.clear()
        self._start_over()

    def fetch(self) -> Sequence[KvEvent]:
        """Returns the events since the last call."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _start_over(self) -> None:
        """Leaves out a number: the reader finds the gap and starts over."""
        self._untold = set(self._ours)
        self._next_out += 1
        self._waiting = [KvEvent(self._next_out, (), ())]
        self._next_out += 1

    def _put(self, stored: list[int], removed: list[int]) -> None:
        if not stored and not removed:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self._start_over()
            return
        self._waiting.append(KvEvent(self._next_out, stored, removed))
        self._next_out += 1

    def _apply(self, event: Mapping[str, Any], stored: list[int], removed: list[int]) -> None:
        kind = event["type"]
        if kind == "BlockStored":
            self._store(event, stored)
        elif kind == "BlockRemoved":
            gone = [ours[0] for name in event["block_hashes"] if (ours := self._ours.pop(name, None)) is not None]
            removed += gone
            self._untold.difference_update(event["block_hashes"])
        elif kind == "AllBlocksCleared":
            removed += [ours for ours, _ in self._ours.values()]
            self._ours.clear()
            self._untold.clear()

    def _store(self, event: Mapping[str, Any], stored: list[int]) -> None:
        before = event["parent_block_hash"]
        if before is None:
            parent = salt_hash(_salt(event))
        else:
            known = self._ours.get(before)
            if known is None:
                return  # what comes before was told in a message that was lost
            parent = known[0]
            if self._untold:
                stored += self._untold_up_to(before)
        names = event["block_hashes"]
        for name, ours in zip(names, following_hashes(parent, event["token_ids"], event["block_size"]), strict=True):
            self._ours[name] = (ours, before)
            stored.append(ours)
            before = name
        if self._untold:
            self._untold.difference_update(names)

    def _untold_up_to(self, name: int | None) -> list[int]:
        """Returns the untold blocks of a prompt up to one, in order; they are told with that."""
        found = []
        while name is not None and name in self._untold:
            self._untold.discard(name)
            ours, name = self._ours[name]
            found.append(ours)
        return found[::-1]


def _salt(event: Mapping[str, Any]) -> str:
    keys = event.get("extra_keys") or [None]
    first = keys[0] or ()
    return next((key for key in first if isinstance(key, str)), "")
