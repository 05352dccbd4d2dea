"""`LlamaCppEngine`: the engine interface over llama.cpp's server in this process.

One thread per slot; a request occupies a slot, and its thread, from submit to finish. Never more requests than
slots, because llama.cpp cannot abort a request that waits for one. All state here belongs to the event loop;
threads get jobs, the copying of slots' states among them, and answer through the outbox.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from qwenserve.runtime.deadlines import within
from qwenserve.runtime.guide_grammar import available
from qwenserve.worker.engine_interface import (
    Chunk,
    Deliver,
    EngineError,
    EngineInfo,
    EngineLoad,
    EngineRefusal,
    EngineRequest,
    FinishReason,
    GuideKind,
    KvEvent,
)
from qwenserve.worker.engines.llamacpp.cache_news import BLOCK_TOKENS
from qwenserve.worker.engines.llamacpp.checks import check_request
from qwenserve.worker.engines.llamacpp.config import Dimensions, LlamaCppConfig, dimensions
from qwenserve.worker.engines.llamacpp.drive import drive
from qwenserve.worker.engines.llamacpp.generation import Generation
from qwenserve.worker.engines.llamacpp.gguf_files import ModelFacts, read_facts, tokenizer_of
from qwenserve.worker.engines.llamacpp.kept_states import KeptState
from qwenserve.worker.engines.llamacpp.machine import look_at_machine
from qwenserve.worker.engines.llamacpp.native import NativeServer
from qwenserve.worker.engines.llamacpp.outbox import Outbox
from qwenserve.worker.engines.llamacpp.prefixes import Place, Prefixes
from qwenserve.worker.engines.llamacpp.self_check import check_ids, keeps_states
from qwenserve.worker.engines.llamacpp.slot_calls import SlotCallError
from qwenserve.worker.guides.matcher import GuideError, GuideVocabulary, vocabulary_of

# How long to wait for threads that have answered their last request, or at exit are one step away from it.
_JOIN_S = 10.0

_GUIDED = {"guide": "ids that top_k, top_p and min_p leave are preferred to those that only the guide allows"}
_WHOLE_CONTEXT = "ids of the prompt count as well as those of the answer"
_APPROXIMATE = {
    "presence_penalty": _WHOLE_CONTEXT,
    "frequency_penalty": _WHOLE_CONTEXT,
    "allowed_token_ids": "logits are rounded to 1/16384, and repetition_penalty must be 1 with it",
    "answer_offset": "penalties count the whole context, wherever the answer began",
}

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    """A request in its slot. `aborted` is set by the loop and read by the slot's thread."""

    request: EngineRequest
    generation: Generation
    place: Place
    aborted: bool = False
    # Whether routers have been told what it computed.
    told: bool = False


class _Keep(NamedTuple):
    """A slot's state is to be written, before whatever comes next there."""

    slot: int
    state: KeptState


_Inbox = queue.SimpleQueue["_Job | _Keep | None"]


class _Loaded:
    """All that exists between start and stop."""

    def __init__(
        self, server: NativeServer, info: EngineInfo, slots: int, outbox: Outbox, vocabulary: GuideVocabulary | None
    ) -> None:
        self.server = server
        self.info = info
        self.vocabulary = vocabulary
        self.outbox = outbox
        self.inboxes: list[_Inbox] = [queue.SimpleQueue() for _ in range(slots)]
        self.threads: list[threading.Thread] = []


class LlamaCppEngine:
    """Runs one GGUF model. See `worker.engine_interface.Engine` for the methods."""

    def __init__(self, config: LlamaCppConfig) -> None:
        self._config = config
        self._loaded: _Loaded | None = None
        self._jobs: dict[int, _Job] = {}
        self._prefixes = Prefixes(0, step_tokens=config.batch_tokens)
        self._steps = 0
        self._idle = asyncio.Event()
        self._deliver: Deliver = _nowhere
        self._on_failure: Callable[[EngineError], None] | None = None

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        """Loads the model and proves that ids come through. Raises EngineError."""
        if self._loaded is not None:
            raise EngineError("the engine has been started already")
        loading = asyncio.ensure_future(asyncio.to_thread(_load, self._config))
        try:
            server, facts, sizes, vocabulary = await within(self._config.start_timeout_s, asyncio.shield(loading))
        except asyncio.TimeoutError as error:
            loading.add_done_callback(_close_late)
            raise EngineError(
                f"{self._config.gguf.name} was not loaded within {self._config.start_timeout_s:.0f} s; "
                "is the machine swapping?"
            ) from error
        except asyncio.CancelledError:
            loading.add_done_callback(_close_late)
            raise
        self._deliver, self._on_failure = deliver, on_failure
        info = _info(self._config, server, facts, sizes, vocabulary)
        outbox = Outbox(asyncio.get_running_loop(), self._hand_over)
        self._loaded = _Loaded(server, info, self._config.max_running, outbox, vocabulary)
        self._prefixes = Prefixes(
            self._config.max_running,
            step_tokens=self._config.batch_tokens,
            kept_bytes=sizes.kept_bytes,
            token_bytes=sizes.token_bytes,
        )
        for number, inbox in enumerate(self._loaded.inboxes):
            thread = threading.Thread(
                target=self._serve, args=(self._loaded, inbox), name=f"llamacpp-slot-{number}", daemon=True
            )
            self._loaded.threads.append(thread)
            thread.start()
        self._idle.set()
        atexit.register(self._leave)
        return info

    def submit(self, request: EngineRequest) -> None:
        """Starts a request. Raises EngineRefusal: a field is wrong, or no slot is free."""
        loaded = self._running()
        if request.key in self._jobs:
            raise EngineRefusal(f"key {request.key} is in use")
        check_request(request, loaded.info)
        for busy in self._jobs.values():
            busy.place.slot.unread = busy.generation.unread
        place = self._prefixes.take(request)
        if place is None:
            raise EngineRefusal(f"all {loaded.info.max_running} slots are taken")
        info = loaded.info
        generation = Generation(request, info.eos_token_ids, info.max_model_len, info.vocab_size)
        job = _Job(request, generation, place)
        self._jobs[request.key] = job
        self._idle.clear()
        number = place.slot.number
        if place.keep is not None:
            loaded.inboxes[number].put(_Keep(number, place.keep))
        loaded.inboxes[number].put(job)

    def abort(self, key: int) -> None:
        """Asks a request to stop; it does within one step, in the prompt's prefill too. Unknown: no-op."""
        job = self._jobs.get(key)
        if job is not None:
            job.aborted = True

    def load(self) -> EngineLoad:
        """Returns the number of requests in slots; llama.cpp's slots have no KV blocks to count."""
        return EngineLoad(running=len(self._jobs), steps=self._steps)

    def kv_events(self) -> Sequence[KvEvent]:
        """Returns and forgets which blocks have come and gone, in slots and in kept states."""
        for job in self._jobs.values():
            if not job.told and not job.generation.unread:
                job.told = True
                self._prefixes.computed(job.place.slot)
        return self._prefixes.events()

    def pace_with(self, room: Callable[[], Awaitable[None]]) -> None:
        """Ignores it: every step computes."""

    async def stop(self) -> None:
        """Aborts what runs, waits for it, releases the model. Raises EngineError where a request hangs."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        for key in list(self._jobs):
            self.abort(key)
        for inbox in loaded.inboxes:
            inbox.put(None)
        try:
            await within(self._config.stop_timeout_s, self._idle.wait())
        except asyncio.TimeoutError as error:
            # Releasing the model under a running call would end the process on the spot.
            raise EngineError(
                f"{len(self._jobs)} requests did not stop within {self._config.stop_timeout_s:.0f} s"
            ) from error
        atexit.unregister(self._leave)
        if await asyncio.to_thread(_release, loaded):
            self._prefixes.close()

    def _leave(self) -> None:
        """Ends requests at the exit of a process that did not stop the engine: llama.cpp would abort it (134)."""
        if self._loaded is not None:
            for job in list(self._jobs.values()):
                job.aborted = True
            for inbox in self._loaded.inboxes:
                inbox.put(None)
            _release(self._loaded)

    def _running(self) -> _Loaded:
        if self._loaded is None:
            raise EngineRefusal("the engine is not running")
        return self._loaded

    def _serve(self, loaded: _Loaded, inbox: _Inbox) -> None:
        """The life of a slot's thread: one request after the other until None comes."""
        while (job := inbox.get()) is not None:
            if isinstance(job, _Keep):
                self._keep(loaded, job)
                continue
            try:
                last = self._generate(loaded, job)
            except Exception as error:
                _log.exception("request %d broke the engine", job.request.key)
                last = job.generation.failed(f"the engine failed: {error}")
                loaded.outbox.fail(EngineError(f"llama.cpp failed: {error}; restart the worker"))
            loaded.outbox.put(last)

    def _generate(self, loaded: _Loaded, job: _Job) -> Chunk:
        def cancelled() -> bool:
            # Asked after each step of the request, parts of its prompt included. Threads that count at the same time
            # may lose a step: what matters is that the count moves.
            self._steps += 1
            return job.aborted or loaded.outbox.closed

        return drive(
            loaded.server,
            job.request,
            job.generation,
            job.place.slot.number,
            reuse_prefix=self._restore(loaded, job.place) or job.place.reuse,
            cancelled=cancelled,
            emit=loaded.outbox.put,
            vocabulary=loaded.vocabulary,
        )

    def _keep(self, loaded: _Loaded, job: _Keep) -> None:
        try:
            well = loaded.server.slots.save(job.slot, job.state.file)
        except SlotCallError as error:
            # The state counts as in use for ever: llama.cpp may write to its file yet.
            self._stop_keeping(loaded, error)
            return
        loaded.outbox.call(partial(self._prefixes.written, job.state, well=well))

    def _restore(self, loaded: _Loaded, place: Place) -> bool:
        """Puts the kept state into the slot, where there is one. False: the prompt is computed without it."""
        state = place.restore
        if state is None:
            return False
        try:
            well = loaded.server.slots.restore(place.slot.number, state.file)
        except SlotCallError as error:
            self._stop_keeping(loaded, error)
            return False
        loaded.outbox.call(partial(self._prefixes.read, state))
        return well

    def _stop_keeping(self, loaded: _Loaded, error: SlotCallError) -> None:
        _log.warning("%s; prefixes are kept in slots only from now on", error)
        loaded.outbox.call(self._prefixes.stop_keeping)

    def _hand_over(self, chunks: list[Chunk], failure: EngineError | None) -> None:
        """Frees the slots of finished requests, then delivers: `deliver` may submit the next ones."""
        for chunk in chunks:
            if chunk.finish is not None:
                job = self._jobs.pop(chunk.key)
                # Of a prompt that was aborted the end was never computed.
                prompt = job.request.prompt_token_ids
                computed = len(prompt) - job.generation.unread
                slot = job.place.slot
                whole = chunk.finish.reason != FinishReason.ABORTED
                keep = self._prefixes.release(slot, [*prompt[:computed], *job.generation.produced], whole=whole)
                if keep is not None and self._loaded is not None:
                    self._loaded.inboxes[slot.number].put(_Keep(slot.number, keep))
        if not self._jobs:
            self._idle.set()
        if chunks:
            self._deliver(chunks)
        if failure is not None and self._on_failure is not None:
            report, self._on_failure = self._on_failure, None
            report(failure)


_Parts = tuple[NativeServer, ModelFacts, Dimensions, "GuideVocabulary | None"]


def _load(config: LlamaCppConfig) -> _Parts:
    """Blocks until the model is loaded and checked."""
    if not config.gguf.is_file():
        raise EngineError(f"{config.gguf} does not exist")
    facts = read_facts(config.gguf)
    if not facts.prepared:
        raise EngineError(
            f"{config.gguf} has not been prepared: llama.cpp would lose tokens that end inside a character. "
            "Load the file that worker.engines.llamacpp.gguf_files.engine_file makes of it"
        )
    sizes = dimensions(config, facts, look_at_machine())
    vocabulary = _vocabulary(config, facts, sizes)
    server = NativeServer(config, sizes)
    try:
        check_ids(server, facts, sizes.end_token_ids, sizes.max_model_len)
        if sizes.kept_bytes and not keeps_states(server):
            _log.info("states of slots cannot be copied on this system: prefixes are kept in slots only")
            sizes = sizes._replace(kept_bytes=0)
    except BaseException:
        server.close()
        raise
    _log.info(
        "%s: %d slots of %d tokens, %d threads", facts.name, config.max_running, sizes.max_model_len, sizes.threads
    )
    return server, facts, sizes, vocabulary


def _vocabulary(config: LlamaCppConfig, facts: ModelFacts, sizes: Dimensions) -> GuideVocabulary | None:
    model, ends = config.model, sorted(sizes.end_token_ids)
    if model is None:
        return None
    try:
        if model.is_dir():
            return vocabulary_of(model, facts.vocab_size, ends)
        tokenizer = tokenizer_of(model) if available() else None
        return None if tokenizer is None else GuideVocabulary(tokenizer, facts.vocab_size, ends)
    except GuideError as error:
        _log.warning("%s", error)
        return None


def _info(
    config: LlamaCppConfig,
    server: NativeServer,
    facts: ModelFacts,
    sizes: Dimensions,
    vocabulary: GuideVocabulary | None,
) -> EngineInfo:
    return EngineInfo(
        name="llamacpp",
        version=f"xllamacpp {server.version}",
        max_model_len=sizes.max_model_len,
        vocab_size=facts.vocab_size,
        eos_token_ids=sizes.end_token_ids,
        max_running=config.max_running,
        kv_block_tokens=BLOCK_TOKENS,
        tells_kv_events=True,
        approximate_fields=_APPROXIMATE | (_GUIDED if vocabulary is not None else {}),
        guide_kinds=frozenset(GuideKind) if vocabulary is not None else frozenset(),
    )


def _release(loaded: _Loaded) -> bool:
    """Releases the model where no thread hangs; returns whether it did."""
    for thread in loaded.threads:
        thread.join(_JOIN_S)
    # Releasing the model under a running call would end the process on the spot.
    if any(thread.is_alive() for thread in loaded.threads):
        return False
    loaded.server.close()
    return True


def _close_late(loading: asyncio.Future[_Parts]) -> None:
    """Releases a model whose loading ended after `start` was cancelled."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result()[0].close()


def _nowhere(chunks: Sequence[Chunk]) -> None:
    """The receiver before `start`: no chunks come then."""
