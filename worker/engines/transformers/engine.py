"""`TransformersEngine`: the engine interface over one thread that computes.

In each step every request gets one pass of its own, in the order in which they came: a part of its prompt, or one id.
So what a request is answered does not depend on those beside it. All state of requests belongs to that thread; the
event loop gives it requests and aborts, and is given chunks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from qwenserve.worker.engine_interface import (
    Chunk,
    Deliver,
    EngineError,
    EngineInfo,
    EngineLoad,
    EngineRefusal,
    EngineRequest,
    Finish,
    FinishReason,
    GuideKind,
    KvEvent,
)
from qwenserve.worker.engines.transformers.generation import Generation
from qwenserve.worker.engines.transformers.network import Pass
from qwenserve.worker.engines.transformers.prefixes import Kept, Prefixes
from qwenserve.worker.guides.matcher import GuideError, GuideVocabulary
from qwenserve.worker.model_facts import DirectoryFacts

_STOP_S = 30.0

_log = logging.getLogger(__name__)


class Passes(Protocol):
    """A network, on one process or on several."""

    version: str

    def run(self, one: Pass) -> NDArray[Any]: ...

    def drop(self, cache: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TransformersConfig:
    """What the engine serves. `vocabulary` is None where guides cannot be followed."""

    facts: DirectoryFacts
    max_model_len: int
    max_running: int
    prefill_tokens: int
    cached_tokens: int
    vocabulary: GuideVocabulary | None = None
    stop_timeout_s: float = _STOP_S


class TransformersEngine:
    """Runs one model. See `worker.engine_interface.Engine` for the methods. `load` is called in the thread."""

    def __init__(self, config: TransformersConfig, load: Callable[[], Passes]) -> None:
        self._config = config
        self._load = load
        self._inbox: queue.SimpleQueue[EngineRequest | int | None] = queue.SimpleQueue()
        self._keys: set[int] = set()
        self._steps = 0
        self._thread: threading.Thread | None = None
        self._running = False
        self._loop: asyncio.AbstractEventLoop
        self._deliver: Deliver
        self._on_failure: Callable[[EngineError], None] | None = None

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        """Loads the model and computes one id."""
        if self._thread is not None:
            raise EngineError("the engine has been started already")
        self._loop = asyncio.get_running_loop()
        self._deliver, self._on_failure = deliver, on_failure
        loaded: asyncio.Future[str] = self._loop.create_future()
        self._thread = threading.Thread(target=self._live, args=(loaded,), name="transformers", daemon=True)
        self._thread.start()
        version = await loaded
        self._running = True
        config = self._config
        return EngineInfo(
            name="transformers",
            version=version,
            max_model_len=config.max_model_len,
            vocab_size=config.facts.vocab_size,
            eos_token_ids=frozenset(config.facts.eos_token_ids),
            max_running=config.max_running,
            approximate_fields={"priority": "requests are computed in turn"},
            guide_kinds=frozenset(GuideKind) if config.vocabulary is not None else frozenset(),
        )

    def submit(self, request: EngineRequest) -> None:
        """Takes a request for the next step. Raises EngineRefusal."""
        if not self._running:
            raise EngineRefusal("the engine is not running")
        prompt = request.prompt_token_ids
        if not 0 < len(prompt) < self._config.max_model_len:
            limit = self._config.max_model_len - 1
            raise EngineRefusal(f"{len(prompt)} ids do not fit into 1 to {limit}", param="prompt_token_ids")
        if min(prompt) < 0 or max(prompt) >= self._config.facts.vocab_size:
            raise EngineRefusal("an id is outside the vocabulary", param="prompt_token_ids")
        if request.guide is not None and self._config.vocabulary is None:
            raise EngineRefusal("this model comes without the tokenizer that guides need", param="guide")
        self._keys.add(request.key)
        self._inbox.put(request)

    def abort(self, key: int) -> None:
        """Ends a request with the next step; unknown keys are ignored."""
        if key in self._keys:
            self._inbox.put(key)

    def load(self) -> EngineLoad:
        """Returns the number of requests, and of passes so far."""
        return EngineLoad(running=len(self._keys), steps=self._steps)

    def kv_events(self) -> Sequence[KvEvent]:
        """Returns nothing: caches are whole requests here, and no blocks."""
        return ()

    def pace_with(self, room: Callable[[], Awaitable[None]]) -> None:
        """Ignores it: every step computes."""

    async def stop(self) -> None:
        """Aborts what runs and gives the model back. Raises EngineError where a pass does not end."""
        thread, self._running = self._thread, False
        if thread is None:
            return
        self._inbox.put(None)
        ended = asyncio.Event()

        def wait() -> None:
            thread.join(self._config.stop_timeout_s)
            with contextlib.suppress(RuntimeError):  # nobody waits any more
                self._loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=wait, name="transformers-stop", daemon=True).start()
        await ended.wait()
        if thread.is_alive():
            raise EngineError(f"a pass did not end within {self._config.stop_timeout_s:g} s")
        await asyncio.sleep(0)  # what the thread handed over last

    def _live(self, loaded: asyncio.Future[str]) -> None:
        """The thread's life."""
        try:
            network = self._load()
            network.run(Pass(0, 0, [self._config.facts.eos_token_ids[0]]))
            network.drop(0)
        except Exception as error:
            failure = error if isinstance(error, EngineError) else EngineError(f"transformers failed: {error}")
            self._to_loop(_fail, loaded, failure)
            return
        self._to_loop(_succeed, loaded, network.version)
        work = _Work(self._config, network)
        try:
            self._compute(work)
            network.close()
        except Exception as error:
            _log.exception("the engine failed")
            self._to_loop(
                self._died, error if isinstance(error, EngineError) else EngineError(f"a pass failed: {error}")
            )

    def _compute(self, work: _Work) -> None:
        """Takes steps until told to stop."""
        while True:
            # Waits where there is nothing to do; otherwise takes what is there.
            news = [] if work.requests else [self._inbox.get()]
            while not self._inbox.empty():
                news.append(self._inbox.get())
            chunks: list[Chunk] = []
            for item in news:
                if isinstance(item, EngineRequest):
                    chunks += work.begin(item)
                elif item is not None:
                    chunks += work.abort(item)
            if None in news:
                for key in list(work.requests):
                    chunks += work.abort(key)
                self._hand_over(chunks)
                return
            chunks += work.step(self._count)
            self._hand_over(chunks)

    def _count(self) -> None:
        self._steps += 1

    def _hand_over(self, chunks: list[Chunk]) -> None:
        if chunks:
            self._to_loop(self._deliver_all, chunks)

    def _deliver_all(self, chunks: list[Chunk]) -> None:
        self._keys.difference_update(chunk.key for chunk in chunks if chunk.finish is not None)
        self._deliver(chunks)

    def _died(self, error: EngineError) -> None:
        self._running = False
        if self._on_failure is not None:
            report, self._on_failure = self._on_failure, None
            report(error)

    def _to_loop(self, call: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *arguments)


class _Work:
    """The requests that are computed. Lives in the thread."""

    def __init__(self, config: TransformersConfig, network: Passes) -> None:
        self._config = config
        self._network = network
        self._prefixes = Prefixes(config.cached_tokens)
        self._ends = frozenset(config.facts.eos_token_ids)
        self.requests: dict[int, Generation] = {}

    def begin(self, request: EngineRequest) -> list[Chunk]:
        """Takes a request; returns its only chunk where it is over at once."""
        guide = None
        try:
            if request.guide is not None and self._config.vocabulary is not None:
                guide = self._config.vocabulary.matcher(request.guide)
                guide.replay(request.guided_so_far)
        except GuideError as error:
            return [Chunk(request.key, (), None, Finish(FinishReason.ABORTED, None, 0, str(error)))]
        # The log-probabilities of a prompt are those of computing all of it.
        known = request.prompt_token_ids if request.prompt_logprobs is None else request.prompt_token_ids[:1]
        cache, cached = self._prefixes.take(request.cache_salt, known)
        generation = Generation(request, self._ends, self._config.max_model_len, cache, cached, guide)
        self.requests[request.key] = generation
        return self._end(generation, generation.ended()) if generation.over else []

    def abort(self, key: int) -> list[Chunk]:
        """Ends a request, where it has not ended by itself."""
        generation = self.requests.get(key)
        return self._end(generation, generation.aborted_chunk()) if generation is not None else []

    def step(self, count: Callable[[], None]) -> list[Chunk]:
        """Computes a pass for every request."""
        chunks = []
        for generation in list(self.requests.values()):
            logits = self._network.run(generation.next_pass(self._config.prefill_tokens))
            count()
            try:
                chunk = generation.take(logits)
            except GuideError as error:
                chunk = generation.aborted_chunk(str(error))
            if chunk is None:
                continue
            chunks += self._end(generation, chunk) if chunk.finish is not None else [chunk]
        return chunks

    def _end(self, generation: Generation, chunk: Chunk) -> list[Chunk]:
        request = generation.request
        del self.requests[request.key]
        kept = Kept(generation.cache, request.cache_salt, generation.ids[: generation.computed])
        for cache in self._prefixes.keep(kept):
            self._network.drop(cache)
        return [chunk]


def _succeed(future: asyncio.Future[str], value: str) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[str], error: EngineError) -> None:
    if not future.done():
        future.set_exception(error)
