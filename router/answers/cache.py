"""Answers to repeated prompts: kept ones are given again, and equal requests at the same time share one generation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.router.answers.flight import Flight
from qwenserve.router.answers.policy import CacheUse
from qwenserve.router.answers.record import Recording, Unusable, decode, encode
from qwenserve.router.answers.tape import complete_tape
from qwenserve.router.generation.leg import Choose, LegSource, Placement
from qwenserve.runtime.config import CacheConfig
from qwenserve.runtime.counting import Counters
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.store.shared import SharedStore
from qwenserve.type.v1 import sampling_pb2

# Most answers on their way into the store: a slow store must not make them pile up here.
_MAX_WRITES = 64


class Wanted(NamedTuple):
    """One choice that may be answered from the store: its key, what was asked, and how it would be generated."""

    key: str
    prompt: Sequence[int]
    sampling: sampling_pb2.SamplingParams
    end_ids: frozenset[int]
    use: CacheUse


class AnswerCache:
    """The kept answers of a store, and the generations of this router that others may join."""

    def __init__(self, store: SharedStore, config: CacheConfig, vocab_size: int) -> None:
        self._store = store
        self._config = config
        self._vocab_size = vocab_size
        self._flights: dict[str, Flight] = {}
        self._tasks = TaskOwner()
        self._writes = 0
        self.results = Counters(
            "qwenserve_answer_cache",
            "Choices that could be answered from the store, by result: hit, joined, miss, and of the misses kept, "
            "too_long, not_kept.",
            ["result"],
        )
        self.reused = Counters(
            "qwenserve_answer_cache_tokens", "Prompt and answer tokens that no engine computed.", ["kind"]
        )

    async def look_up(self, wanted: Sequence[Wanted]) -> list[Recording | None]:
        """Returns the kept answers, None where there is none to be used. Waits no longer than the store may take."""
        return list(await asyncio.gather(*map(self._kept, wanted)))

    def joinable(self, key: str) -> bool:
        """Whether a generation that others may join is under way."""
        flight = self._flights.get(key)
        return flight is not None and flight.joinable

    def chooser(self, wanted: Wanted, kept: Recording | None, placement: Placement) -> Choose:
        """Returns what chooses where the legs of a choice come from.

        The first one comes from the store, or from a generation that may be shared. Further legs
        continue in a way of their own, or after a failure: they are chosen as `placement` does.
        """
        begun = False

        def choose(prompt: Sequence[int], tried: frozenset[str]) -> LegSource:
            nonlocal begun
            if begun:
                return placement.choose(prompt, tried)
            begun = True
            if kept is not None:
                self._count("hit", wanted, len(kept.ids))
                return complete_tape(kept)
            flight = self._flights.get(wanted.key)
            if wanted.use.read and flight is not None and flight.joinable:
                self._count("joined", wanted, 0)
                return flight
            self._count("miss", wanted, 0)
            return self._new_flight(wanted, placement)

        return choose

    async def close(self) -> None:
        """Cancels the writes to the store that are still under way."""
        await self._tasks.close()

    async def _kept(self, wanted: Wanted) -> Recording | None:
        if not wanted.use.read:
            return None
        value = await self._store.get(wanted.key, max_bytes=self._config.max_answer_bytes)
        if value is None:
            return None
        try:
            recording = decode(value, wanted.sampling, self._vocab_size)
        except Unusable as error:
            self._store.disbelieve(str(error))
            return None
        age = time.time() - recording.created
        return recording if age <= wanted.use.max_age_s else None

    def _new_flight(self, wanted: Wanted, placement: Placement) -> Flight:
        def over(flight: Flight, recording: Recording | None) -> None:
            if self._flights.get(wanted.key) is flight:
                del self._flights[wanted.key]
            if recording is not None and wanted.use.write:
                self._keep(wanted.key, recording)

        flight = Flight(wanted.prompt, wanted.sampling, wanted.end_ids, placement, over)
        self._flights[wanted.key] = flight
        flight.begin()
        return flight

    def _keep(self, key: str, recording: Recording) -> None:
        """Writes an answer into the store, in the background."""
        payload = encode(recording)
        if len(payload) > self._config.max_answer_bytes:
            self.results.labels("too_long").inc()
        elif self._writes >= _MAX_WRITES:
            self.results.labels("not_kept").inc()
        else:
            self._writes += 1
            self._tasks.start(self._write(key, payload), name="keep answer")

    async def _write(self, key: str, payload: bytes) -> None:
        try:
            kept = await self._store.put(key, payload, ttl_s=self._config.max_age_s)
            self.results.labels("kept" if kept else "not_kept").inc()
        finally:
            self._writes -= 1

    def _count(self, result: str, wanted: Wanted, answer_tokens: int) -> None:
        self.results.labels(result).inc()
        if result != "miss":
            self.reused.labels("prompt").inc(len(wanted.prompt))
        if answer_tokens:
            self.reused.labels("answer").inc(answer_tokens)
