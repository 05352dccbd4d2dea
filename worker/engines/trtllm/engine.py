"""`TrtllmEngine`: the engine interface over TensorRT-LLM's LLM API. Token ids in, token ids out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from qwenserve.runtime.deadlines import within
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
    TokenLogprob,
)
from qwenserve.worker.engines.trtllm.block_events import BlockEvents
from qwenserve.worker.engines.trtllm.native import NativeLlm
from qwenserve.worker.engines.trtllm.sampling import (
    IGNORED_BY_TORCH_SAMPLER,
    bias_of,
    check_request,
    guide_arguments,
    sampling_arguments,
)
from qwenserve.worker.engines.trtllm.versions import Has
from qwenserve.worker.guides.regions import guide_kinds, regions_spelled_out
from qwenserve.worker.request_tasks import RequestTasks

_HEALTH_S = 0.5
_PUMP_S = 2.0
_FIRST_ID_S = 300.0

_log = logging.getLogger(__name__)


class TrtllmConfig(NamedTuple):
    """What an engine is made of. `load` blocks; `leave` ends the process where the package cannot be stopped."""

    load: Callable[[], NativeLlm]
    version: str
    has: Has
    max_model_len: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    max_running: int
    block_tokens: int = 32
    # Whether its options leave it a buffer for the events of its prefix cache.
    tells_kv_events: bool = True
    penalty_sampler: bool = True
    guides: bool = True
    # Tokens that are no text, such as <tool_call>, by name.
    special_ids: Mapping[str, int] = {}
    start_timeout_s: float = 3600.0
    stop_timeout_s: float = 60.0
    leave: Callable[[int], None] = os._exit
    options: Mapping[str, Any] = MappingProxyType({})


class TrtllmEngine:
    """Runs one model. See `worker.engine_interface.Engine` for the methods."""

    def __init__(self, config: TrtllmConfig) -> None:
        self._config = config
        self._info = describe(config)
        self._native: NativeLlm | None = None
        self._tasks: RequestTasks | None = None
        self._pumps: list[asyncio.Task[None]] = []
        self._events = BlockEvents(config.block_tokens)
        self._free_blocks = self._total_blocks = self._steps = -1
        self._stopping = False

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        """Loads the model and has it answer one id. Raises EngineError.

        Blocks the event loop meanwhile: MPI wants the main thread, and the package the loop that asks first.
        """
        if self._native is not None:
            raise EngineError("the engine has been started already")
        limit = self._config.start_timeout_s
        deadline = threading.Timer(
            limit, self._too_late, (f"TensorRT-LLM did not load the model within {limit:.0f} s",)
        )
        deadline.daemon = True
        deadline.start()
        try:
            self._native = self._config.load()
            await self._prove()
        except BaseException:
            await self.stop()
            raise
        finally:
            deadline.cancel()
        self._tasks = RequestTasks(deliver, on_failure)
        loop = asyncio.get_running_loop()
        self._pumps = [
            loop.create_task(self._watch(), name="trtllm-health"),
            loop.create_task(self._pump(self._native.statistics, self._take_statistics), name="trtllm-statistics"),
            loop.create_task(self._pump(self._native.cache_events, self._events.take), name="trtllm-kv-events"),
        ]
        return self._info

    def submit(self, request: EngineRequest) -> None:
        """Starts a request. Raises EngineRefusal."""
        if self._tasks is None or self._native is None or self._tasks.failed or self._stopping:
            raise EngineRefusal("the engine is not running")
        check_request(request, self._info)
        request = regions_spelled_out(request, self._config.special_ids, self._config.eos_token_ids)
        self._tasks.start(request.key, self._answer(self._native, request))

    def abort(self, key: int) -> None:
        """Asks a request to stop. Unknown: no-op."""
        if self._tasks is not None:
            self._tasks.abort(key)

    def load(self) -> EngineLoad:
        """Returns the load as of the last statistics."""
        running = self._tasks.running if self._tasks is not None else 0
        return EngineLoad(running, self._free_blocks, self._total_blocks, self._count())

    def kv_events(self) -> Sequence[KvEvent]:
        """Returns and forgets the cache events."""
        return self._events.fetch()

    def pace_with(self, room: Callable[[], Awaitable[None]]) -> None:
        """Ignores it: every step computes."""

    async def stop(self) -> None:
        """Aborts what runs and ends the ranks; ends the process where they do not end in time."""
        if self._stopping:
            return
        self._stopping = True
        for pump in self._pumps:
            pump.cancel()
        if self._pumps:
            await asyncio.wait(self._pumps)
        native, self._native = self._native, None
        try:
            if self._tasks is not None:
                await self._tasks.close(self._config.stop_timeout_s)
        finally:
            if native is not None:
                await self._shut_down(native)

    async def _shut_down(self, native: NativeLlm) -> None:
        limit = self._config.stop_timeout_s
        # A daemon: the shutdown waits for ranks without a limit, and exit must not wait for it.
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            try:
                native.shutdown()
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="trtllm-shutdown", daemon=True).start()
        try:
            await within(limit, done.wait())
        except asyncio.TimeoutError:
            self._too_late(f"TensorRT-LLM did not shut down within {limit:.0f} s; a rank hangs")

    def _count(self) -> int:
        """Steps by the engine's own count, or deliveries until it tells."""
        return self._steps if self._steps >= 0 else (self._tasks.deliveries if self._tasks is not None else 0)

    def _too_late(self, text: str) -> None:
        _log.critical(text)
        self._config.leave(1)

    async def _prove(self) -> None:
        """One id comes through. It also ties the package to this loop, as it has to be done before anything else."""
        assert self._native is not None
        request = EngineRequest(0, [min(self._info.eos_token_ids)], Sampling(temperature=0.0, max_tokens=1))
        ids: list[int] = []

        async def first() -> None:
            assert self._native is not None
            async with contextlib.aclosing(self._answer(self._native, request)) as chunks:
                async for chunk in chunks:
                    ids.extend(chunk.token_ids)

        try:
            await within(_FIRST_ID_S, first())
        except asyncio.TimeoutError:
            raise EngineError(f"TensorRT-LLM loaded the model, but gave no id within {_FIRST_ID_S:.0f} s") from None
        if len(ids) != 1:
            raise EngineError(f"TensorRT-LLM gave {len(ids)} ids where one was asked for")

    async def _answer(self, native: NativeLlm, request: EngineRequest) -> AsyncGenerator[Chunk, None]:
        package, sampling = native.package, request.sampling
        try:
            parameters = package.sampling(
                sampling_arguments(request, self._info, self._config.has.sampling),
                bias_of(sampling, self._info.vocab_size),
                guide_arguments(request.guide) if request.guide is not None else None,
            )
            result = native.generate(request.prompt_token_ids, parameters, self._more(request))
        except Exception as error:
            raise self._sorted(native, request, error) from error
        finished = False
        try:
            sent = 0
            async for step in result:
                # The same object each time; its lists grow in place.
                part = step.outputs[0]
                ids = list(part.token_ids[sent:])
                rows = None
                if sampling.top_logprobs is not None:
                    rows = [
                        _row(token, row, sampling.top_logprobs)
                        for token, row in zip(ids, (part.logprobs or [])[sent:], strict=True)
                    ]
                sent += len(ids)
                finish = None
                if part.finish_reason is not None:
                    finish = _finish(part.finish_reason, part.stop_reason, ids, self._info, step.cached_tokens or 0)
                    finished = True
                if ids or finish is not None:
                    yield Chunk(request.key, ids, rows, finish)
                if finish is not None:
                    return
        except Exception as error:
            raise self._sorted(native, request, error) from error
        finally:
            # Whoever only stops reading leaves the engine computing.
            if not finished:
                result.abort()

    def _sorted(self, native: NativeLlm, request: EngineRequest, error: Exception) -> Exception:
        """What an error of the package means: this request's end, or the engine's."""
        if isinstance(error, (EngineError, EngineRefusal)):
            return error
        if native.package.is_refusal(error):
            return EngineRefusal(f"{'guide' if request.guide is not None else 'TensorRT-LLM'}: {error}")
        return EngineError(f"TensorRT-LLM has died ({type(error).__name__}: {error})")

    def _more(self, request: EngineRequest) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if request.cache_salt and self._config.has.cache_salt:
            more["cache_salt"] = request.cache_salt
        if request.traceparent and self._config.has.traces:
            more["trace_headers"] = {"traceparent": request.traceparent}
        if self._config.has.priority:
            more["priority"] = 0.5 + request.priority / 200  # -100 to 100 is 0 to 1 there
        return more

    async def _watch(self) -> None:
        assert self._native is not None
        assert self._tasks is not None
        # There is no event to wait for.
        while self._native.healthy:  # noqa: ASYNC110
            await asyncio.sleep(_HEALTH_S)
        self._tasks.fail(EngineError("TensorRT-LLM has shut down; its own messages are above"))

    async def _pump(
        self,
        source: Callable[[float], AsyncIterable[Mapping[str, Any]]],
        take: Callable[[Mapping[str, Any]], None],
    ) -> None:
        try:
            while True:
                async for item in source(_PUMP_S):
                    take(item)
                # It ends when nothing came for a while, or at once before there is anything.
                await asyncio.sleep(_HEALTH_S)
        except Exception as error:
            # Routers then know less; answers are not touched.
            _log.error("no more news of TensorRT-LLM's statistics or cache", exc_info=error)

    def _take_statistics(self, statistics: Mapping[str, Any]) -> None:
        cache = statistics.get("kvCacheStats") or {}
        self._free_blocks = int(cache.get("freeNumBlocks", -1))
        self._total_blocks = int(cache.get("maxNumBlocks", -1))
        self._steps = int(statistics.get("iter", -1))


def describe(config: TrtllmConfig) -> EngineInfo:
    """Returns what the installed version can do with this configuration."""
    lacking = {"prompt_logprobs"}
    if not config.penalty_sampler:
        lacking |= IGNORED_BY_TORCH_SAMPLER
    if not config.has.cache_salt:
        lacking.add("cache_salt")
    nearly = {
        "min_tokens": f"of end and stop tokens only {min(config.eos_token_ids)} is held back",
        "top_logprobs": "an id that is not among the most likely ones has the least of their log-probabilities",
    }
    if not config.has.priority:
        nearly["priority"] = "requests are computed in the order in which they came"
    if "prompt_ignore_length" not in config.has.sampling:
        nearly["answer_offset"] = "penalties count the whole context, wherever the answer began"
    if config.guides:
        nearly["guide"] = "an answer that began under a guide elsewhere is not gone on with"
    return EngineInfo(
        name="trtllm",
        version=f"tensorrt_llm {config.version}",
        max_model_len=config.max_model_len,
        vocab_size=config.vocab_size,
        eos_token_ids=config.eos_token_ids,
        max_running=config.max_running,
        kv_block_tokens=config.block_tokens,
        tells_kv_events=config.tells_kv_events,
        unsupported_fields=frozenset(lacking),
        approximate_fields=nearly,
        guide_kinds=guide_kinds(config.special_ids) if config.guides else frozenset(),
        options=config.options,
    )


def _finish(reason: str, stop_reason: Any, ids: Sequence[int], info: EngineInfo, cached: int) -> Finish:
    if reason == "stop":
        stop = stop_reason if isinstance(stop_reason, int) else None
        if stop is None and ids and ids[-1] in info.eos_token_ids:
            stop = ids[-1]
        return Finish(FinishReason.STOP, stop, cached)
    if reason == "length":
        return Finish(FinishReason.LENGTH, None, cached)
    error = "" if reason == "cancelled" else f"TensorRT-LLM ended the request: {reason}"
    return Finish(FinishReason.ABORTED, None, cached, error)


def _row(token: int, row: Mapping[int, Any], top: int) -> TokenLogprob:
    likeliest = sorted(((other, entry.logprob) for other, entry in row.items()), key=lambda pair: -pair[1])
    own = row[token].logprob if token in row else likeliest[-1][1]
    # Its own id first among equals, as greedy choice has it.
    likeliest.sort(key=lambda pair: (-pair[1], pair[0] != token))
    return TokenLogprob(token, own, likeliest[:top])
