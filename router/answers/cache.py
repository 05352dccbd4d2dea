"""Answers to repeated prompts: kept ones are given again, and equal requests at the same time share one generation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.router.answers.flight import Flight
from qwenserve.router.answers.policy import CacheUse
from qwenserve.router.answers.record import Recording, Unusable, decode, encode
from qwenserve.router.answers.similar import Match, Question, SimilarPrompts
from qwenserve.router.answers.tape import complete_tape
from qwenserve.router.generation.leg import Choose, LegGuide, LegSource, Placement
from qwenserve.runtime.config import CacheConfig
from qwenserve.runtime.counting import Counters
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.store.shared import SharedStore
from qwenserve.type.v1 import sampling_pb2

# Most answers on their way into the store: a slow store must not make them pile up here.
_MAX_WRITES = 64
# How long an answer waits for others to be written with it.
_COMPANY_S = 0.005
# Bytes of one message, of several answers: what is too much for the time limit would fail all of them.
_MESSAGE_BYTES = 256 * 1024
# Similar prompts whose answers are looked for: those of the nearest ones may have been forgotten.
_MOST_MATCHES = 3


class Wanted(NamedTuple):
    """One choice that may be answered from the store: its key, what was asked, and how it would be generated.

    `guide` binds it from its first id. `question` is there where similar prompts count, `answer_id` is its answer's.
    """

    key: str
    prompt: Sequence[int]
    sampling: sampling_pb2.SamplingParams
    end_ids: frozenset[int]
    use: CacheUse
    guide: LegGuide | None = None
    question: Question | None = None
    answer_id: str = ""


class Similar(NamedTuple):
    """The kept answer to a similar prompt."""

    match: Match
    recording: Recording


class AnswerCache:
    """The kept answers of a store, and the generations of this router that others may join."""

    def __init__(
        self, store: SharedStore, config: CacheConfig, vocab_size: int, similar: SimilarPrompts | None = None
    ) -> None:
        self._store = store
        self.similar = similar
        self._config = config
        self._vocab_size = vocab_size
        self._flights: dict[str, Flight] = {}
        self._tasks = TaskOwner()
        self._unwritten: list[tuple[Wanted, bytes]] = []
        self._writing = False
        self.results = Counters(
            "qwenserve_answer_cache",
            "Choices that could be answered from the store, by result: hit, similar, joined, miss, and of the "
            "misses kept, too_long, not_kept.",
            ["result"],
        )
        self.reused = Counters(
            "qwenserve_answer_cache_tokens", "Prompt and answer tokens that no engine computed.", ["kind"]
        )

    async def look_up(self, wanted: Sequence[Wanted]) -> list[Recording | None]:
        """Returns the kept answers, None where there is none to be used. Waits no longer than the store may take."""
        if len(wanted) == 1:  # most answers have one choice; it needs no task of its own
            return [await self._kept(wanted[0])]
        return list(await asyncio.gather(*map(self._kept, wanted)))

    async def look_for_similar(self, wanted: Wanted) -> Similar | None:
        """Returns the kept answer to the nearest prompt that asks the same; None where there is none near enough."""
        if self.similar is None or wanted.question is None or not wanted.use.read:
            return None
        matches = await self.similar.matches(wanted.question, wanted.use.similar)
        for match in matches[:_MOST_MATCHES]:
            recording = await self._kept(wanted._replace(key=match.answer_key))
            if recording is not None:
                return Similar(match, recording)
        return None

    def joinable(self, key: str) -> bool:
        """Whether a generation that others may join is under way."""
        flight = self._flights.get(key)
        return flight is not None and flight.joinable

    def chooser(self, wanted: Wanted, kept: Recording | None, placement: Placement, *, result: str = "hit") -> Choose:
        """Returns what chooses where the legs of a choice come from. `result` is what a kept answer counts as.

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
                self._count(result, wanted, len(kept.ids))
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
        if self.similar is not None:
            await self.similar.close()

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
                self._keep(wanted, recording)

        flight = Flight(wanted.prompt, wanted.sampling, wanted.end_ids, placement, over, guide=wanted.guide)
        self._flights[wanted.key] = flight
        flight.begin()
        return flight

    def _keep(self, wanted: Wanted, recording: Recording) -> None:
        """Writes an answer into the store, in the background and together with others."""
        payload = encode(recording)
        if len(payload) > self._config.max_answer_bytes:
            self.results.labels("too_long").inc()
        elif len(self._unwritten) >= _MAX_WRITES:
            self.results.labels("not_kept").inc()
        else:
            self._unwritten.append((wanted, payload))
            if not self._writing:
                self._writing = True
                self._tasks.start(self._write(), name="keep answers")

    async def _write(self) -> None:
        try:
            while self._unwritten:
                # A message costs far more than what is in it, and nobody waits.
                await asyncio.sleep(_COMPANY_S)
                count = _how_many(self._unwritten)
                written, self._unwritten = self._unwritten[:count], self._unwritten[count:]
                values = [(wanted.key, payload) for wanted, payload in written]
                kept = await self._store.put_all(values, ttl_s=self._config.max_age_s)
                self.results.labels("kept" if kept else "not_kept").inc(len(written))
                if kept and self.similar is not None:
                    for wanted, _ in written:
                        if wanted.question is not None:
                            await self.similar.learn(wanted.question, wanted.key, wanted.answer_id)
        finally:
            self._writing = False

    def _count(self, result: str, wanted: Wanted, answer_tokens: int) -> None:
        self.results.labels(result).inc()
        if result != "miss":
            self.reused.labels("prompt").inc(len(wanted.prompt))
        if answer_tokens:
            self.reused.labels("answer").inc(answer_tokens)


def _how_many(answers: Sequence[tuple[Wanted, bytes]]) -> int:
    """Returns how many answers go with one message, 1 at least."""
    size = 0
    for count, (_, payload) in enumerate(answers):
        size += len(payload)
        if size > _MESSAGE_BYTES:
            return max(1, count)
    return len(answers)
