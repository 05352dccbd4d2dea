"""vLLM's news of its prefix cache, in our block hashes.

vLLM names blocks by hashes of its own; with each stored block it sends the ids, which block comes before, and, with the
first block of a prompt, its salt: enough to work out what `runtime.block_hash` makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwenserve.runtime.block_hash import block_hash, salt_hash
from qwenserve.worker.engine_interface import KvEvent

# Routers look when they get a message; nobody waits for more than these.
_MAX_WAITING = 10_000


class BlockEvents:
    """Translates messages and keeps the events until they are fetched. One of our events for each message."""

    def __init__(self) -> None:
        self._ours: dict[int, int] = {}
        self._waiting: list[KvEvent] = []
        self._next_in = 0
        self._next_out = 0

    def take(self, sequence: int, events: Sequence[Mapping[str, Any]]) -> None:
        """Takes one message: its number and its events. A gap in the numbers is passed on as one."""
        if sequence != self._next_in:
            self._next_out += 1
        self._next_in = sequence + 1
        stored: list[int] = []
        removed: list[int] = []
        for event in events:
            # Further groups are the same tokens in other kinds of layers.
            if event.get("group_idx") in (None, 0):
                self._apply(event, stored, removed)
        self._put(stored, removed)

    def fetch(self) -> Sequence[KvEvent]:
        """Returns the events since the last call."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _put(self, stored: list[int], removed: list[int]) -> None:
        if not stored and not removed:
            return
        if len(self._waiting) >= _MAX_WAITING:
            # The reader finds a gap and starts over.
            self._waiting.clear()
        self._waiting.append(KvEvent(self._next_out, stored, removed))
        self._next_out += 1

    def _apply(self, event: Mapping[str, Any], stored: list[int], removed: list[int]) -> None:
        kind = event["type"]
        if kind == "BlockStored":
            self._store(event, stored)
        elif kind == "BlockRemoved":
            removed += [ours for name in event["block_hashes"] if (ours := self._ours.pop(name, None)) is not None]
        elif kind == "AllBlocksCleared":
            removed += self._ours.values()
            self._ours.clear()

    def _store(self, event: Mapping[str, Any], stored: list[int]) -> None:
        before = event["parent_block_hash"]
        parent = salt_hash(_salt(event)) if before is None else self._ours.get(before)
        if parent is None:
            return  # what comes before was told in a message that was lost
        size = event["block_size"]
        ids = event["token_ids"]
        for number, name in enumerate(event["block_hashes"]):
            parent = block_hash(parent, ids[number * size : (number + 1) * size])
            self._ours[name] = parent
            stored.append(parent)


def _salt(event: Mapping[str, Any]) -> str:
    keys = event.get("extra_keys") or [None]
    first = keys[0] or ()
    return next((key for key in first if isinstance(key, str)), "")
