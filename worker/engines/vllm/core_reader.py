"""Requests given to vLLM's core, and its steps read, without AsyncLLM between: one message a step for all requests.

AsyncLLM wakes a task for each request in each step; here a step is one delivery, at a fifth of the processor time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwenserve.worker.engine_interface import (
    Chunk,
    Deliver,
    EngineError,
    EngineRefusal,
    EngineRequest,
    Finish,
    FinishReason,
    TokenLogprob,
)
from qwenserve.worker.engines.vllm.native import NativeVllm
from qwenserve.worker.engines.vllm.sampling import StructuredOutput

_NO_IDS: tuple[int, ...] = ()
# A chunk from all of its values, in a third of the time that the class takes: once a token.
_chunk = tuple.__new__


class _Job:
    __slots__ = ("cached", "key", "plain", "prompt_top", "top")

    def __init__(self, request: EngineRequest) -> None:
        self.key = request.key
        self.top = request.sampling.top_logprobs
        self.prompt_top = request.prompt_logprobs
        # Whether ids are all that comes of it, between its first and its last step.
        self.plain = self.top is None and self.prompt_top is None
        self.cached: int | None = None


class CoreReader:
    """The requests of one engine. Used on the event loop only; `deliver` and `on_failure` as in `Engine.start`."""

    def __init__(self, native: NativeVllm, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> None:
        self._native = native
        self._deliver = deliver
        self._on_failure = on_failure
        self._jobs: dict[str, _Job] = {}
        self._ids: dict[int, str] = {}
        self._ending: set[int] = set()
        self._numbers = itertools.count(1)
        # At most one addition and one abort for each request that runs.
        self._sends: asyncio.Queue[Any] = asyncio.Queue()
        self._failed = self._closed = False
        self.steps = 0
        self.kv_usage = 0.0
        native.give_steps_to(self._take)
        self._sender = asyncio.get_running_loop().create_task(self._send(), name="vllm-send")

    @property
    def running(self) -> int:
        """Requests without a finish."""
        return len(self._ids) + len(self._ending)

    @property
    def failed(self) -> bool:
        """Whether the core has died."""
        return self._failed

    def start(self, request: EngineRequest, arguments: Mapping[str, Any], structured: StructuredOutput | None) -> None:
        """Takes a request. Raises EngineRefusal."""
        if request.key in self._ids or request.key in self._ending:
            raise EngineRefusal(f"key {request.key} is in use")
        try:
            made = self._native.core_request(
                f"{request.key}-{next(self._numbers)}",
                request.prompt_token_ids,
                request.cache_salt,
                self._native.parameters(arguments, structured),
                -request.priority,  # vLLM computes the lowest number first
            )
        except ValueError as error:
            if structured is None:
                raise EngineRefusal(f"vLLM: {error}") from error
            # Whether a guide can be followed is known to vLLM alone, and told like all that comes of an answer.
            self._end_soon(request.key, Finish(FinishReason.ABORTED, error=f"guide: {error}"))
            return
        self._ids[request.key] = made.request_id
        self._jobs[made.request_id] = _Job(request)
        self._sends.put_nowait(made)

    def abort(self, key: int) -> None:
        """Ends a request in the next turn of the loop; what the core still says of it is dropped."""
        request_id = self._ids.pop(key, None)
        if request_id is None:
            return
        job = self._jobs.pop(request_id)
        self._sends.put_nowait(request_id)
        self._end_soon(key, Finish(FinishReason.ABORTED, cached_tokens=job.cached or 0))

    async def close(self, limit_s: float) -> None:
        """Aborts every request and delivers the finishes."""
        for key in list(self._ids):
            self.abort(key)
        await asyncio.sleep(0)
        self._closed = True
        self._sender.cancel()
        await asyncio.wait({self._sender}, timeout=limit_s)

    def _end_soon(self, key: int, finish: Finish) -> None:
        self._ending.add(key)
        asyncio.get_running_loop().call_soon(self._tell_end, key, finish)

    def _tell_end(self, key: int, finish: Finish) -> None:
        self._ending.discard(key)
        if not self._failed:
            self._deliver([Chunk(key, _NO_IDS, finish=finish)])

    def _fail(self, error: Exception) -> None:
        if not self._failed and not self._closed:
            self._failed = True
            self._ids.clear()
            self._jobs.clear()
            self._on_failure(EngineError(f"vLLM's core has died ({error or type(error).__name__})"))

    async def _send(self) -> None:
        core = self._native.core
        try:
            while True:
                item = await self._sends.get()
                if isinstance(item, str):
                    await core.abort_requests_async([item])
                else:
                    await core.add_request_async(item)
        except Exception as error:
            self._fail(error)

    def _take(self, outputs: Any) -> None:
        """Takes a step, or why there will be no more: `EngineCoreOutputs`, or an exception."""
        if isinstance(outputs, Exception):
            self._fail(outputs)
            return
        if self._closed:
            return
        self.steps += 1
        statistics = outputs.scheduler_stats
        if statistics is not None:
            self.kv_usage = statistics.kv_cache_usage
        if chunks := self._chunks(outputs.outputs):
            self._deliver(chunks)

    def _chunks(self, outputs: Sequence[Any]) -> list[Chunk]:
        jobs = self._jobs
        chunks: list[Chunk] = []
        for output in outputs:
            job = jobs.get(output.request_id)
            if job is None:
                continue
            ids = output.new_token_ids
            prefill, reason = output.prefill_stats, output.finish_reason
            if prefill is None and reason is None and job.plain:
                if ids:
                    chunks.append(_chunk(Chunk, (job.key, ids, None, None, None)))
                continue
            if prefill is not None and job.cached is None:
                job.cached = prefill.num_cached_tokens
            finish = None
            if reason is not None:
                finish = finish_from(str(reason), output.stop_reason, job.cached or 0)
                del jobs[output.request_id]
                del self._ids[job.key]
            scored = None
            if output.new_logprobs is not None and job.top is not None:
                table, values = output.new_logprobs[:2]
                scored = _rows(table.tolist(), values.tolist(), job.top)
            prompt = None
            if output.new_prompt_logprobs_tensors is not None and job.prompt_top is not None:
                table, values = output.new_prompt_logprobs_tensors[:2]
                prompt = _rows(table.tolist(), values.tolist(), job.prompt_top)
            if ids or finish is not None or prompt:
                chunks.append(Chunk(job.key, ids, scored, finish, prompt))
        return chunks


def finish_from(reason: str, stop_reason: Any, cached: int) -> Finish:
    """Returns the end of a request as vLLM names it."""
    if reason == "stop":
        return Finish(FinishReason.STOP, stop_reason if isinstance(stop_reason, int) else None, cached)
    if reason == "length":
        return Finish(FinishReason.LENGTH, None, cached)
    error = "" if reason == "abort" else f"vLLM ended the request: {reason}"
    return Finish(FinishReason.ABORTED, None, cached, error)


def _rows(ids: list[list[int]], values: list[list[float]], top: int) -> list[TokenLogprob]:
    """Returns a row for each position: its own id comes first in it, then the most likely ones, as many as any request
    of the batch asked for.
    """
    return [
        TokenLogprob(i[0], v[0], list(zip(i[1 : top + 1], v[1 : top + 1], strict=True)))
        for i, v in zip(ids, values, strict=True)
    ]
