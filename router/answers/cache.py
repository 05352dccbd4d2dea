"""Answers to repeated prompts: kept ones are given again, and equal requests at the same time share one generation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from qwenserve.router.answers.flight import Flight, recorded
from qwenserve.router.answers.known import KnownAnswers
from qwenserve.router.answers.policy import CacheUse
from qwenserve.router.answers.question import Match, Question
from qwenserve.router.answers.record import Recording, Unusable, decode, encode
from qwenserve.router.answers.tape import complete_tape
from qwenserve.router.generation.generation import Generation, Receiver
from qwenserve.router.generation.leg import Choose, LegSource
from qwenserve.runtime.config import CacheConfig
from qwenserve.runtime.counting import Counters
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.runtime.values import frozen_value
from qwenserve.store.shared import SharedStore
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2

if TYPE_CHECKING:
    from qwenserve.router.answers.similar import SimilarPrompts

# Most answers on their way into the store: a slow store must not make them pile up here.
_MAX_WRITES = 256
# How long an answer waits for others to be written with it.
_COMPANY_S = 0.02
# Bytes of one message, of several answers: what is too much for the time limit would fail all of them.
_MESSAGE_BYTES = 256 * 1024
# Similar prompts whose answers are looked for: those of the nearest ones may have been forgotten.
_MOST_MATCHES = 3


@frozen_value
class Wanted:
    """One choice that may be answered from the store: its key, and what was asked.

    `alone`: nobody can join its generation, which pauses. `question` is there where similar prompts count, `answer_id`
    is its answer's.
    """

    key: str
    prompt: Sequence[int]
    sampling: sampling_pb2.SamplingParams
    use: CacheUse
    alone: bool = False
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
        # Generations under way, by key, and who has them.
        self.generations: dict[str, Flight | Source] = {}
        self.known = KnownAnswers(store)
        self._tasks = TaskOwner()
        self._unwritten: list[tuple[Wanted, Recording]] = []
        self._writing = False
        self.results = Counters(
            "qwenserve_answer_cache",
            "Choices that could be answered from the store, by result: hit, similar, joined, miss, and of the "
            "misses kept, too_long, not_kept.",
            ["result"],
        )
        # Most requests count this one: without the look-up by labels.
        self.misses = self.results.labels("miss")
        self.reused = Counters(
            "qwenserve_answer_cache_tokens", "Prompt and answer tokens that no engine computed.", ["kind"]
        )

    async def look_up(self, wanted: Sequence[Wanted]) -> list[Recording | None]:
        """Returns the kept answers, None where there is none to be used. Waits no longer than the store may take."""
        return list(await asyncio.gather(*map(self._kept_if_any, wanted)))

    async def look_for_similar(self, wanted: Wanted) -> Similar | None:
        """Returns the kept answer to the nearest prompt that asks the same; None where there is none near enough."""
        if self.similar is None or wanted.question is None or not wanted.use.read:
            return None
        matches = await self.similar.matches(wanted.question, wanted.use.similar)
        for match in matches[:_MOST_MATCHES]:
            recording = await self.kept(replace(wanted, key=match.answer_key))
            if recording is not None:
                return Similar(match, recording)
        return None

    def running(self, wanted: Wanted) -> Flight | Source | None:
        """Returns the generation under way that would be joined."""
        found = self.generations.get(wanted.key)
        return found if found is not None and wanted.use.read and not wanted.alone and found.joinable else None

    def asks(self, wanted: Wanted) -> bool:
        """Whether the store is asked: where something may be there, and for who takes nothing else, to be certain."""
        return wanted.use.only_if_cached or (wanted.use.read and self.known.may_have(wanted.key))

    def keep(self, wanted: Wanted, recording: Recording) -> None:
        """Writes an answer into the store, in the background and together with others."""
        if len(self._unwritten) >= _MAX_WRITES:
            self.results.labels("not_kept").inc()
            return
        self._unwritten.append((wanted, recording))
        if not self._writing:
            self._writing = True
            self._tasks.start(self._write(), name="keep answers")

    async def close(self) -> None:
        """Cancels the writes to the store that are still under way."""
        await self._tasks.close()
        await self.known.close()
        if self.similar is not None:
            await self.similar.close()

    async def kept(self, wanted: Wanted) -> Recording | None:
        """Returns the kept answer, None where there is none to be used. Waits no longer than the store may take."""
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

    async def _kept_if_any(self, wanted: Wanted) -> Recording | None:
        return await self.kept(wanted) if self.asks(wanted) else None

    async def _write(self) -> None:
        try:
            while self._unwritten:
                # A message costs far more than what is in it, and nobody waits.
                await asyncio.sleep(_COMPANY_S)
                taken, self._unwritten = self._unwritten, []
                for written in self._messages(taken):
                    await self._put(written)
        finally:
            self._writing = False

    async def _put(self, written: Sequence[tuple[Wanted, bytes]]) -> None:
        values = [(wanted.key, payload) for wanted, payload in written]
        news = self.known.news([key for key, _ in values])
        kept = await self._store.put_all(values, ttl_s=self._config.max_age_s, news=news)
        self.results.labels("kept" if kept else "not_kept").inc(len(written))
        if kept and self.similar is not None:
            for wanted, _ in written:
                if wanted.question is not None:
                    await self.similar.learn(wanted.question, wanted.key, wanted.answer_id)

    def _messages(self, answers: Sequence[tuple[Wanted, Recording]]) -> Iterator[Sequence[tuple[Wanted, bytes]]]:
        """Yields what goes together; leaves out what is too long."""
        message: list[tuple[Wanted, bytes]] = []
        size = 0
        for wanted, recording in answers:
            payload = encode(recording)
            if len(payload) > self._config.max_answer_bytes:
                self.results.labels("too_long").inc()
                continue
            if message and size + len(payload) > _MESSAGE_BYTES:
                yield message
                message, size = [], 0
            message.append((wanted, payload))
            size += len(payload)
        if message:
            yield message

    def count(self, result: str, wanted: Wanted, answer_tokens: int) -> None:
        """Counts what was not computed."""
        self.results.labels(result).inc()
        self.reused.labels("prompt").inc(len(wanted.prompt))
        if answer_tokens:
            self.reused.labels("answer").inc(answer_tokens)


class Owner(Receiver, Protocol):
    """A choice: the receiver of its generation."""

    generation: Generation

    def follow(self, generation: Generation) -> None:
        """Goes on with another generation, which has the same ids so far."""


class Source:
    """Where the legs of one choice come from: a kept answer, a generation under way, or one of its own.

    Its own is the choice's alone, as without kept answers, until somebody asks the same: only then it becomes a flight,
    which all of them read. The first leg decides; further ones continue in a way of their own, or after a failure, and
    are chosen as any.
    """

    __slots__ = ("_begun", "_cache", "_choose", "_logprobs", "_owner", "_result", "_wanted", "kept", "leads")

    def __init__(
        self, cache: AnswerCache, wanted: Wanted, kept: Recording | None, leads: bool = False, result: str = "hit"
    ) -> None:
        """`leads`: nobody generated it just now, so it will be its own. `result` is what a kept answer counts as."""
        self.kept = kept
        self._cache = cache
        self._wanted = wanted
        self._result = result
        self._begun = leads
        # Whether what its owner generates is noted, to be kept.
        self.leads = leads
        self._logprobs: list[sampling_pb2.TokenLogprob] = []

    def open(self, owner: Owner, choose: Choose) -> None:
        """Takes the choice, and what chooses the worker where one is needed. Comes before anything else."""
        self._owner: Owner | None = owner
        self._choose = choose
        if self.leads:
            if self._wanted.key in self._cache.generations:
                self.leads = self._begun = False  # somebody came first while this one waited for a worker
            else:
                self._lead()

    def choose(self, prompt: Sequence[int], tried: frozenset[str]) -> LegSource:
        """Returns where the next leg comes from. Raises Unavailable."""
        if self._begun:
            return self._choose(prompt, tried)
        cache, wanted = self._cache, self._wanted
        if self.kept is not None:
            self._begun = True
            cache.count(self._result, wanted, len(self.kept.ids))
            return complete_tape(self.kept)
        running = cache.running(wanted)
        if running is not None:
            self._begun = True
            cache.count("joined", wanted, 0)
            return running if isinstance(running, Flight) else running.shared()
        session = self._choose(prompt, tried)
        self._begun = self.leads = True
        self._lead()
        return session

    def _lead(self) -> None:
        """Lets others join from now on."""
        cache, wanted = self._cache, self._wanted
        cache.misses.inc()
        if not wanted.alone:
            cache.generations[wanted.key] = self

    @property
    def joinable(self) -> bool:
        """Whether somebody who joined now would get the whole answer."""
        return self.leads and self._owner is not None and not self._owner.generation.stopped

    def shared(self) -> Flight:
        """Makes a flight of the generation; its owner becomes the first of the readers."""
        owner, wanted, cache = self._owner, self._wanted, self._cache
        assert owner is not None

        def over(flight: Flight, recording: Recording | None) -> None:
            if cache.generations.get(wanted.key) is flight:
                del cache.generations[wanted.key]
            if recording is not None and wanted.use.write:
                cache.keep(wanted, recording)

        flight = Flight(owner.generation, wanted.sampling, over, self._logprobs)
        self._owner = None
        cache.generations[wanted.key] = flight
        owner.follow(flight.lead(owner))
        return flight

    def note(self, logprobs: Sequence[sampling_pb2.TokenLogprob]) -> None:
        """Takes the log-probabilities of ids that the owner was given."""
        if self.leads and self._owner is not None:
            self._logprobs.extend(logprobs)

    def ended(self, finish: worker_pb2.Finish, thinking_cut: bool) -> None:
        """The owner's generation is complete."""
        owner, leads, wanted = self._owner, self.leads, self._wanted
        self.close()
        if leads and owner is not None and wanted.use.write:
            generation = owner.generation
            recording = recorded(generation, wanted.sampling, finish, self._logprobs, generation.stopped, thinking_cut)
            if recording is not None:
                self._cache.keep(wanted, recording)

    def close(self) -> None:
        """Lets go of the owner, which has ended or is given up: nobody can join any more."""
        self._owner = None
        if self.leads:
            self.leads = False
            generations, key = self._cache.generations, self._wanted.key
            if generations.get(key) is self:
                del generations[key]
