"""TensorRT-LLM's news of its prefix cache, in our block hashes.

It names blocks by hashes of its own; with each stored block it sends the ids and which block comes before. Blocks that
are not full are left out: nobody's prompt ends with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwenserve.runtime.block_hash import block_hash, salt_hash
from qwenserve.worker.engine_interface import KvEvent

_MAX_WAITING = 10_000


class BlockEvents:
    """Translates events and keeps them until they are fetched."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._ours: dict[int, int] = {}
        self._waiting: list[KvEvent] = []
        self._next_in: int | None = None
        self._next_out = 0
        self._window = 0

    def take(self, event: Mapping[str, Any]) -> None:
        """Takes one event. Of several attention windows the largest counts."""
        window = int(event.get("window_size") or 0)
        number = int(event["event_id"])
        if self._next_in is not None and number != self._next_in:
            # What was lost may have been a removal: nothing that was told is certain any more.
            self._start_over()
        self._next_in = number + 1
        if window < self._window:
            return
        if window > self._window:
            self._window = window
            self._forget()
        data = event["data"]
        if data["type"] == "stored":
            self._store(data)
        elif data["type"] == "removed":
            self._put((), [ours for name in data["block_hashes"] if (ours := self._ours.pop(name, None)) is not None])

    def fetch(self) -> Sequence[KvEvent]:
        """Returns the events since the last call."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _start_over(self) -> None:
        """Leaves out a number: the reader finds the gap and starts over. What is cached is told as it comes anew."""
        self._ours.clear()
        self._next_out += 1
        self._waiting = [KvEvent(self._next_out, (), ())]
        self._next_out += 1

    def _forget(self) -> None:
        self._put((), list(self._ours.values()))
        self._ours.clear()

    def _put(self, stored: Sequence[int], removed: Sequence[int]) -> None:
        if not stored and not removed:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self._start_over()
        self._waiting.append(KvEvent(self._next_out, stored, removed))
        self._next_out += 1

    def _store(self, data: Mapping[str, Any]) -> None:
        before = data["parent_hash"]
        blocks = data["blocks"]
        # A version that does not tell the salt does not tell tenants apart: without one, only prompts without a salt
        # find what they look for, and those with one find nothing.
        salt = (blocks[0].get("cache_salt") or "") if blocks else ""
        parent = salt_hash(salt) if before is None else self._ours.get(before)
        stored = []
        for block in blocks:
            ids = [token["token_id"] for token in block["tokens"]]
            if parent is None or len(ids) != self._block_tokens:
                break
            parent = block_hash(parent, ids)
            self._ours[block["block_hash"]] = parent
            stored.append(parent)
        self._put(stored, ())
