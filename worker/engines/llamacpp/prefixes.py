"""Where the beginnings of prompts are: in slots, and in kept states. Decides; threads of the slots do what it says.

A slot's state is copied when its request has ended and less than half of it is kept already: then what requests have in
common, a system prompt, is there for others though the slot is busy again. And it is copied before a request overwrites
what is nowhere else. So each token is copied about once, and a conversation that goes on in its slot costs nothing.

To copy takes a moment, but waits for the step under way, and who comes next in the slot waits with it. So it is worth
it for as many tokens as a step computes; and where somebody would wait, only if so many were asked for before, or are
by this request: prompts that never come again cost nothing where all slots are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.runtime.block_hash import block_hashes
from qwenserve.worker.engine_interface import EngineRequest, KvEvent
from qwenserve.worker.engines.llamacpp import memory_files
from qwenserve.worker.engines.llamacpp.cache_news import BLOCK_TOKENS, CacheNews
from qwenserve.worker.engines.llamacpp.kept_states import KeptState, KeptStates
from qwenserve.worker.engines.llamacpp.slots import Slot, choose_slot

# What a state has beside its tokens' keys and values: ids, positions, headers of layers.
_MORE_BYTES_PER_TOKEN = 20
_MORE_BYTES = 8192
# Two million tokens of prompts, in about 2 MB.
_MOST_MARKS = 16_384


class Place(NamedTuple):
    """Where a request goes. First `keep` is written there, then `restore` read; without that the slot's content may be
    used where it is the same tenant's (`reuse`).
    """

    slot: Slot
    keep: KeptState | None
    restore: KeptState | None
    reuse: bool


class AskedBefore:
    """Beginnings of the prompts of late, by the hash of every fourth block. The oldest are forgotten."""

    def __init__(self, most: int = _MOST_MARKS) -> None:
        self._most = most
        self._known: dict[int, None] = {}

    def look(self, hashes: Sequence[int]) -> int:
        """Returns how many of the leading blocks were asked for before, in fours, and notes all of them."""
        marks, known = hashes[3::4], self._known
        count = next((n for n, value in enumerate(marks) if value not in known), len(marks))
        for value in marks:
            known.pop(value, None)
            known[value] = None
        while len(known) > self._most:
            del known[next(iter(known))]
        return 4 * count


class Prefixes:
    """All slots of an engine. Used on its event loop only."""

    def __init__(self, slots: int, *, step_tokens: int, kept_bytes: int = 0, token_bytes: int = 0) -> None:
        """`kept_bytes` is the most that kept states take; a token takes `token_bytes` of the KV cache."""
        self.slots = [Slot(number) for number in range(slots)]
        self._step_tokens = step_tokens
        self._token_bytes = token_bytes
        self._kept = KeptStates(kept_bytes)
        self._asked = AskedBefore()
        self._news = CacheNews()
        self._requests = 0

    def take(self, request: EngineRequest) -> Place | None:
        """Gives a request the best free slot; None where all are busy."""
        self._requests += 1
        salt = request.cache_salt
        wanted = block_hashes(request.prompt_token_ids, BLOCK_TOKENS, salt)
        keeps = self._kept.limit_bytes > 0
        found = self._kept.holder(wanted) if keeps else None
        for slot in self.slots:
            covered = len(slot.hashes) if slot.copying else self._kept.covered(slot.hashes)
            slot.kept = covered * BLOCK_TOKENS
        choice = choose_slot(
            self.slots,
            request.prompt_token_ids,
            salt,
            step_tokens=self._step_tokens,
            kept_tokens=0 if found is None else self._kept.covered(wanted) * BLOCK_TOKENS,
            keeps=keeps,
        )
        if choice is None:
            return None
        if found is not None:
            found.last_used = self._requests
        slot = choice.slot
        restore = found if choice.restores else None
        if restore is not None:
            restore.users += 1
        known = max(slot.shared, choice.common) - slot.kept
        keep = self._keep(slot) if min(choice.lost, known) >= self._step_tokens else None
        place = Place(slot, keep, restore, slot.cache_salt == salt)
        slot.busy, slot.cache_salt, slot.last_used = True, salt, self._requests
        slot.token_ids, slot.hashes, slot.shared = [], wanted, self._asked.look(wanted) * BLOCK_TOKENS
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
        slot.kept = self._kept.covered(slot.hashes) * BLOCK_TOKENS
        missing = len(token_ids) - slot.kept
        if not whole or missing < self._step_tokens or 2 * missing <= len(token_ids):
            return None
        wanted = all(other.busy for other in self.slots if other is not slot)
        return self._keep(slot) if not wanted or slot.shared - slot.kept >= self._step_tokens else None

    def written(self, state: KeptState, *, well: bool) -> None:
        """A slot's thread has written a state, or could not."""
        state.users -= 1
        state.slot.copying = False
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
        """Copies nothing from now on, neither way. The files stay open: who was to write to them may do so yet."""
        self._kept.limit_bytes = 0
        for slot in self.slots:
            slot.copying = False

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
        state = KeptState(file, slot, slot.hashes, size, self._requests, users=1)
        self._kept.add(state)
        slot.copying = True
        return state

    def _drop(self, gone: Sequence[KeptState]) -> None:
        for state in gone:
            self._news.holds(state, ())
            memory_files.close(state.file)
