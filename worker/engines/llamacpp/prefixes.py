"""Where the beginnings of prompts are: in slots, and in kept states. Decides; threads of the slots do what it says.

A slot's state is copied when its request has ended and less than half of it is kept already: then what requests have in
common, a system prompt, is there for others though the slot is busy again. And it is copied before a request overwrites
what is nowhere else. So each token is copied about once, and a conversation that goes on in its slot costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.runtime.block_hash import block_hashes
from qwenserve.worker.engine_interface import EngineRequest, KvEvent
from qwenserve.worker.engines.llamacpp import memory_files
from qwenserve.worker.engines.llamacpp.cache_news import BLOCK_TOKENS, CacheNews
from qwenserve.worker.engines.llamacpp.kept_states import KeptState, KeptStates
from qwenserve.worker.engines.llamacpp.slots import WORTH_TOKENS, Slot, choose_slot

# What a state has beside its tokens' keys and values: ids, positions, headers of layers.
_MORE_BYTES_PER_TOKEN = 20
_MORE_BYTES = 8192


class Place(NamedTuple):
    """Where a request goes. First `keep` is written there, then `restore` read; without that the slot's content may be
    used where it is the same tenant's (`reuse`).
    """

    slot: Slot
    keep: KeptState | None
    restore: KeptState | None
    reuse: bool


class Prefixes:
    """All slots of an engine. Used on its event loop only."""

    def __init__(self, slots: int, *, step_tokens: int, kept_bytes: int = 0, token_bytes: int = 0) -> None:
        """`kept_bytes` is the most that kept states take; a token takes `token_bytes` of the KV cache."""
        self.slots = [Slot(number) for number in range(slots)]
        self._step_tokens = step_tokens
        self._token_bytes = token_bytes
        self._kept = KeptStates(kept_bytes)
        self._news = CacheNews()
        self._requests = 0

    def take(self, request: EngineRequest) -> Place | None:
        """Gives a request the best free slot; None where all are busy."""
        self._requests += 1
        salt = request.cache_salt
        wanted = block_hashes(request.prompt_token_ids, BLOCK_TOKENS, salt)
        found = self._kept.holder(wanted)
        for slot in self.slots:
            slot.kept = self._kept.covered(slot.hashes) * BLOCK_TOKENS
        choice = choose_slot(
            self.slots,
            request.prompt_token_ids,
            salt,
            step_tokens=self._step_tokens,
            kept_tokens=self._kept.covered(wanted) * BLOCK_TOKENS,
            keeps=self._kept.limit_bytes > 0,
        )
        if choice is None:
            return None
        if found is not None:
            found.last_used = self._requests
        slot = choice.slot
        restore = found if choice.restores else None
        if restore is not None:
            restore.users += 1
        keep = self._keep(slot) if choice.lost >= WORTH_TOKENS else None
        place = Place(slot, keep, restore, slot.cache_salt == salt)
        slot.busy, slot.cache_salt, slot.last_used = True, salt, self._requests
        slot.token_ids, slot.hashes = [], wanted
        self._news.holds(slot.number, wanted[: choice.common // BLOCK_TOKENS])
        return place

    def computed(self, slot: Slot) -> None:
        """All of the prompt is in the slot. It is told at once: the prompt that goes on from there comes right after
        the end, and perhaps to a router that does not know yet where the one before went.
        """
        self._news.holds(slot.number, slot.hashes)

    def release(self, slot: Slot, token_ids: list[int], *, whole: bool) -> KeptState | None:
        """Takes a slot back with what it holds now. Returns the state that is to be written there, if any: none where
        the request did not come to its end (`whole`).
        """
        slot.busy, slot.token_ids = False, token_ids
        slot.hashes = block_hashes(token_ids, BLOCK_TOKENS, slot.cache_salt)
        self._news.holds(slot.number, slot.hashes)
        missing = len(token_ids) - self._kept.covered(slot.hashes) * BLOCK_TOKENS
        worth = whole and missing >= WORTH_TOKENS and 2 * missing > len(token_ids)
        return self._keep(slot) if worth else None

    def written(self, state: KeptState, *, well: bool) -> None:
        """A slot's thread has written a state, or could not."""
        state.users -= 1
        if not well:
            self._kept.remove(state)
            memory_files.close(state.file)
            return
        gone = self._kept.written(state, memory_files.size_of(state.file))
        self._news.holds(state, state.hashes)
        self._drop(gone)

    def read(self, state: KeptState) -> None:
        """A slot's thread has done with reading a state."""
        state.users -= 1

    def stop_keeping(self) -> None:
        """Keeps nothing from now on. The files stay open: who was to write to them may do so yet."""
        self._kept.limit_bytes = 0

    def close(self) -> None:
        """Gives all memory back; no thread may use a state any more."""
        self._kept.limit_bytes = 0
        for state in self._kept.clear():
            memory_files.close(state.file)

    def events(self) -> Sequence[KvEvent]:
        """Returns and forgets which blocks have come and gone."""
        return self._news.fetch()

    def _keep(self, slot: Slot) -> KeptState | None:
        size = len(slot.token_ids) * (self._token_bytes + _MORE_BYTES_PER_TOKEN) + _MORE_BYTES
        gone = self._kept.room_for(size) if slot.hashes else None
        if gone is None:
            return None
        self._drop(gone)
        file = memory_files.create()
        if file is None:
            return None
        state = KeptState(file, slot.hashes, size, self._requests, users=1)
        self._kept.add(state)
        return state

    def _drop(self, gone: Sequence[KeptState]) -> None:
        for state in gone:
            self._news.holds(state, ())
            memory_files.close(state.file)
