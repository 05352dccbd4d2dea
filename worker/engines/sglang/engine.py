"""`SglangEngine`: the engine interface over SGLang's engine. Token ids in, token ids out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from qwenserve.runtime.block_hash import DEFAULT_BLOCK_TOKENS
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
    KvEvent,
    Sampling,
)
from qwenserve.worker.engine_packages import load_in_time
from qwenserve.worker.engines.sglang.arguments import SGLANG
from qwenserve.worker.engines.sglang.native import NativeSglang
from qwenserve.worker.engines.sglang.reading import AnswerReader
from qwenserve.worker.engines.sglang.sampling import check_request, sampling_arguments
from qwenserve.worker.guides.regions import guide_kinds, regions_spelled_out
from qwenserve.worker.request_tasks import RequestTasks

_STOP_S = 30.0
# For the first id of all: kernels are compiled on the way.
_FIRST_ID_S = 300.0
_LOAD_S = 0.5

_APPROXIMATE = {
    "top_logprobs": "logit_bias, penalties and guides are in the log-probabilities of an answer",
    "repetition_penalty": "ids of the prompt do not count, nor those of an answer's part that was generated elsewhere; "
    "logit_bias is added behind it",
    "answer_offset": "an id of the earlier part that comes again counts twice for presence_penalty",
    "allowed_token_ids": "log-probabilities between them are rounded to 0.00003",
    "min_tokens": "end tokens are held back with ignore_eos too",
}
_GUIDED = {
    "guide": "an answer that began under a guide elsewhere is not gone on with; under one, min_tokens does not count "
    "and end tokens end the answer"
}

_log = logging.getLogger(__name__)


class SglangConfig(NamedTuple):
    """What an engine is made of. `load` blocks and raises EngineError; `guides`: whether the tokenizer is loaded;
    `seeds`: whether SGLang draws by them.
    """

    load: Callable[[], NativeSglang]
    eos_token_ids: frozenset[int]
    max_running: int
    max_model_len: int
    guides: bool = True
    seeds: bool = False
    start_timeout_s: float = 1800.0
    # Tokens that are no text, such as <tool_call>, by name.
    special_ids: Mapping[str, int] = {}
    kernel_tables: Sequence[str] = ()


class _Job:
    __slots__ = ("aborted", "request_id")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.aborted = False


class SglangEngine:
    """Runs one model. See `worker.engine_interface.Engine` for the methods."""

    def __init__(self, config: SglangConfig) -> None:
        self._config = config
        self._native: NativeSglang | None = None
        self._info: EngineInfo | None = None
        self._tasks: RequestTasks | None = None
        self._pump: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._jobs: dict[int, _Job] = {}
        self._used = self._total = -1
        self._stopping = False
        self._watching = False

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        """Loads the model and has it answer one id. Raises EngineError."""
        if self._native is not None:
            raise EngineError("the engine has been started already")
        loop = asyncio.get_running_loop()
        died: asyncio.Future[str] = loop.create_future()

        def end(reason: str) -> None:
            if not died.done():
                died.set_result(reason)
            if self._tasks is not None and not self._stopping:
                self._tasks.fail(EngineError(f"SGLang has died ({reason})"))

        self._watch_processes(loop, end)
        try:
            self._native = native = await load_in_time(self._config.load, self._config.start_timeout_s, SGLANG)
            native.attach(end)
            self._info = info = self._describe(native)
            await self._prove(native, info, died)
        except BaseException:
            await self.stop()
            raise
        self._tasks = RequestTasks(deliver, on_failure)
        self._pump = loop.create_task(self._read_load(native), name="sglang-load")
        return info

    def submit(self, request: EngineRequest) -> None:
        """Starts a request. Raises EngineRefusal."""
        native, info, tasks = self._native, self._info, self._tasks
        if native is None or info is None or tasks is None or tasks.failed or self._stopping:
            raise EngineRefusal("the engine is not running")
        check_request(request, info)
        request = regions_spelled_out(request, self._config.special_ids, self._config.eos_token_ids)
        job = self._new_job()
        tasks.start(request.key, self._answer(native, request, job, _fields(request, info)))
        self._jobs[request.key] = job

    def abort(self, key: int) -> None:
        """Asks a request to stop. Unknown: no-op."""
        job = self._jobs.get(key)
        if job is not None and self._native is not None and not job.aborted:
            job.aborted = True
            self._native.abort(job.request_id)

    def load(self) -> EngineLoad:
        """Returns the load as of the last look."""
        if self._tasks is None:
            return EngineLoad(0)
        free, total = -1, -1
        if self._total >= 0:
            # It keeps single tokens; routers count in blocks.
            free, total = (self._total - self._used) // DEFAULT_BLOCK_TOKENS, self._total // DEFAULT_BLOCK_TOKENS
        return EngineLoad(self._tasks.running, free, total, self._tasks.deliveries)

    def kv_events(self) -> Sequence[KvEvent]:
        """Returns none: SGLang's do not say whose prefix a block is, which a salt keeps apart."""
        return ()

    def pace_with(self, room: Callable[[], Awaitable[None]]) -> None:
        """Ignores it: every step computes."""

    async def stop(self) -> None:
        """Aborts what runs and ends SGLang's processes. Raises EngineError where a request hangs."""
        if self._stopping:
            return
        self._stopping = True
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait({self._pump})
        native, self._native = self._native, None
        try:
            if self._tasks is not None:
                await self._tasks.close(_STOP_S)
        finally:
            if native is not None:
                native.detach()
                await asyncio.to_thread(native.close)
            if self._watching:
                asyncio.get_running_loop().remove_signal_handler(signal.SIGQUIT)

    def _watch_processes(self, loop: asyncio.AbstractEventLoop, end: Callable[[str], None]) -> None:
        # SGLang's processes tell of their end by this signal, and its watch over those that were killed does.
        with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: the process ends by it
            loop.add_signal_handler(signal.SIGQUIT, end, "one of its processes is gone")
            self._watching = True

    def _describe(self, native: NativeSglang) -> EngineInfo:
        config = self._config
        # Where it draws by seeds, its scheduler ends at a request with min_p.
        lacking = {"min_p"} if config.seeds else {"seed"}
        nearly = dict(_APPROXIMATE)
        if config.guides:
            nearly |= _GUIDED
        else:
            lacking.add("min_tokens")
            del nearly["min_tokens"]
        return EngineInfo(
            name="sglang",
            version=f"sglang {native.version}",
            max_model_len=min(native.max_model_len, config.max_model_len or native.max_model_len),
            vocab_size=native.vocab_size,
            eos_token_ids=config.eos_token_ids,
            max_running=config.max_running,
            kv_block_tokens=DEFAULT_BLOCK_TOKENS,
            unsupported_fields=frozenset(lacking),
            approximate_fields=nearly,
            guide_kinds=guide_kinds(config.special_ids) if config.guides else frozenset(),
            options=native.options,
            kernel_tables=config.kernel_tables,
        )

    async def _prove(self, native: NativeSglang, info: EngineInfo, died: asyncio.Future[str]) -> None:
        """One id comes through, before anybody's request does."""
        request = EngineRequest(0, [0], Sampling(temperature=0.0, max_tokens=1, ignore_eos=True))
        ids: list[int] = []

        async def first() -> None:
            answer = self._answer(native, request, self._new_job(), _fields(request, info))
            async with contextlib.aclosing(answer) as chunks:
                async for chunk in chunks:
                    ids.extend(chunk.token_ids)

        asking = asyncio.ensure_future(first())
        waiting: set[asyncio.Future[Any]] = {asking, died}
        try:
            await asyncio.wait(waiting, timeout=_FIRST_ID_S, return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                raise EngineError(f"SGLang has died ({died.result()})")
            if not asking.done():
                raise EngineError(f"SGLang loaded the model, but gave no id within {_FIRST_ID_S:.0f} s")
            try:
                asking.result()
            except EngineRefusal as error:
                raise EngineError(f"SGLang refused its first request: {error}") from error
        finally:
            asking.cancel()
            await asyncio.wait({asking})
        if len(ids) != 1:
            raise EngineError(f"SGLang gave {len(ids)} ids where one was asked for")

    def _new_job(self) -> _Job:
        # An abort is meant for all ids that begin like its own; with the dot none begins like another one.
        return _Job(f"{next(self._numbers)}.")

    async def _answer(
        self, native: NativeSglang, request: EngineRequest, job: _Job, fields: dict[str, Any]
    ) -> AsyncGenerator[Chunk, None]:
        try:
            if job.aborted:  # before SGLang heard of it
                yield Chunk(request.key, (), finish=Finish(FinishReason.ABORTED))
                return
            async with contextlib.aclosing(native.generate(rid=job.request_id, **fields)) as steps:
                reader = AnswerReader(request, self._config.eos_token_ids)
                async for step in steps:
                    chunk = reader.read(step, aborted=job.aborted)
                    if chunk.finish is not None and step["meta_info"]["finish_reason"] is None:
                        # While it is still known there: of what is no more read, nothing can be aborted.
                        native.abort(job.request_id)
                    if chunk.token_ids or chunk.prompt_logprobs or chunk.finish is not None:
                        yield chunk
                    if chunk.finish is not None:
                        return
        except Exception as error:
            if job.aborted:
                yield Chunk(request.key, (), finish=Finish(FinishReason.ABORTED))
            elif isinstance(error, ValueError):
                raise EngineRefusal(f"{'guide' if request.guide else 'SGLang'}: {error}") from error
            else:
                raise
        finally:
            if self._jobs.get(request.key) is job:
                del self._jobs[request.key]

    async def _read_load(self, native: NativeSglang) -> None:
        try:
            while True:
                self._used, self._total = await native.tokens()
                await asyncio.sleep(_LOAD_S)
        except Exception as error:
            # Routers then know less; answers are not touched.
            self._used = self._total = -1
            _log.error("no more news of SGLang's KV cache", exc_info=error)


def _fields(request: EngineRequest, info: EngineInfo) -> dict[str, Any]:
    """Returns the fields of SGLang's request. Raises EngineRefusal."""
    top, prompt_top = request.sampling.top_logprobs, request.prompt_logprobs
    fields: dict[str, Any] = {
        "input_ids": list(request.prompt_token_ids),
        "sampling_params": sampling_arguments(request, info),
        "priority": request.priority,
    }
    if top is not None or prompt_top is not None:
        fields["return_logprob"] = True
        fields["top_logprobs_num"] = max(top or 0, prompt_top or 0)
        fields["logprob_start_len"] = -1 if prompt_top is None else 0
    if request.cache_salt:
        fields["extra_key"] = request.cache_salt
    if request.traceparent:
        fields["external_trace_header"] = {"traceparent": request.traceparent}
    return fields
