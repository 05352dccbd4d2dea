"""Drives one request through its calls, in the thread of its slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwenserve.worker.engine_interface import Chunk, EngineError, EngineRequest
from qwenserve.worker.engines.llamacpp.chunks import Ended, Failed, Generated, Prefilled, read_chunk
from qwenserve.worker.engines.llamacpp.generation import Generation
from qwenserve.worker.engines.llamacpp.native import NativeServer
from qwenserve.worker.engines.llamacpp.scoring import score_prompt
from qwenserve.worker.guides.matcher import GuideError, GuideVocabulary


def drive(
    server: NativeServer,
    request: EngineRequest,
    generation: Generation,
    slot: int,
    *,
    reuse_prefix: bool,
    cancelled: Callable[[], bool],
    emit: Callable[[Chunk], None],
    vocabulary: GuideVocabulary | None = None,
) -> Chunk:
    """Blocks until the request is over; returns its last chunk, after `emit` got the others.

    Raises EngineError where llama.cpp does not behave as this adapter knows it.
    """
    try:
        if request.prompt_logprobs is not None:
            generation.computes_whole_prompt()
            failed = score_prompt(server, request, slot, reuse_prefix=reuse_prefix, cancelled=cancelled, emit=emit)
            if failed:
                return generation.failed(failed)
        if request.guide is not None and vocabulary is not None:
            generation.follow(vocabulary.matcher(request.guide))
        return _generate(server, request, generation, slot, reuse_prefix=reuse_prefix, cancelled=cancelled, emit=emit)
    except GuideError as error:
        return generation.failed(str(error))
    except (KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"llama.cpp answered in a form that is not known: {error!r}") from error


def _generate(
    server: NativeServer,
    request: EngineRequest,
    generation: Generation,
    slot: int,
    *,
    reuse_prefix: bool,
    cancelled: Callable[[], bool],
    emit: Callable[[Chunk], None],
) -> Chunk:
    call = _Call(generation, request.sampling.top_logprobs, cancelled, emit)
    while not cancelled():
        if (known := generation.forced()) is not None:
            emit(known)
        body = generation.next_call(slot, reuse_prefix=reuse_prefix)
        if body is None:
            break
        call.begin()
        server.complete(body, call.on_chunk)
        if call.failed is not None:
            return generation.failed(call.failed.message)
        if call.ended is not None:
            generation.call_ended(at_end_token=call.ended.at_end_token)
        elif not call.left:
            raise EngineError("llama.cpp ended a call without saying so")
    return generation.finished()


class _Call:
    """The callback of one call after the other."""

    def __init__(
        self,
        generation: Generation,
        top_logprobs: int | None,
        cancelled: Callable[[], bool],
        emit: Callable[[Chunk], None],
    ) -> None:
        self._generation = generation
        self._top_logprobs = top_logprobs
        self._cancelled = cancelled
        self._emit = emit
        self.begin()

    def begin(self) -> None:
        """Forgets how the call before ended."""
        self.ended: Ended | None = None
        self.failed: Failed | None = None
        self.left = False

    def on_chunk(self, raw: Mapping[str, Any]) -> bool:
        """Returns True to abort the call."""
        event = read_chunk(raw, self._top_logprobs)
        if isinstance(event, Generated):
            taken = self._generation.take(event)
            if taken.chunk is not None:
                self._emit(taken.chunk)
            self.left = taken.leave or self._cancelled()
            return self.left
        if isinstance(event, Ended):
            self.ended = event
            return False
        if isinstance(event, Prefilled):
            self._generation.prefilled(event)
            self.left = self._cancelled()
            return self.left
        self.failed = event
        return True
