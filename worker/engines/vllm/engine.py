"""`VllmEngine`: the engine interface over vLLM's asynchronous engine. Token ids in, token ids out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from qwenserve.worker.engine_interface import (
    Chunk,
    Deliver,
    EngineError,
    EngineInfo,
    EngineLoad,
    EngineRefusal,
    EngineRequest,
    KvEvent,
    Sampling,
)
from qwenserve.worker.engine_packages import load_in_time
from qwenserve.worker.engines.vllm.arguments import VLLM
from qwenserve.worker.engines.vllm.core_reader import CoreReader
from qwenserve.worker.engines.vllm.event_reader import EventReader
from qwenserve.worker.engines.vllm.generation import Generations
from qwenserve.worker.engines.vllm.native import NativeVllm
from qwenserve.worker.engines.vllm.sampling import check_request, sampling_arguments, structured_output
from qwenserve.worker.guides.regions import guide_kinds, regions_spelled_out

_STOP_S = 30.0
# For the first id of all: kernels are compiled on the way.
_FIRST_ID_S = 300.0

_APPROXIMATE = {
    "temperature": "between 0 and 0.01 it is 0.01",
    "answer_offset": "an id of the earlier part that comes again counts twice for presence_penalty, and what it "
    "loses is taken off before repetition_penalty applies",
}
_GUIDED = {
    "guide": "an answer that began under a guide elsewhere is not gone on with; under one, min_tokens does not count "
    "and end tokens end the answer"
}
# What vLLM refuses together with speculative decoding.
_NOT_SPECULATIVE = frozenset({"min_p", "logit_bias"})

_log = logging.getLogger(__name__)


class VllmConfig(NamedTuple):
    """What an engine is made of. `load` blocks, gets the address for cache events (empty: none) and raises
    EngineError; `guides`: whether the tokenizer is loaded.
    """

    load: Callable[[str], NativeVllm]
    eos_token_ids: frozenset[int]
    max_running: int
    guides: bool = True
    kv_events: bool = True
    read_core: bool = True
    speculative: bool = False
    start_timeout_s: float = 1800.0
    # Tokens that are no text, such as <tool_call>, by name.
    special_ids: Mapping[str, int] = {}
    kernel_tables: Sequence[str] = ()


class VllmEngine:
    """Runs one model. See `worker.engine_interface.Engine` for the methods."""

    def __init__(self, config: VllmConfig) -> None:
        self._config = config
        self._native: NativeVllm | None = None
        self._info: EngineInfo | None = None
        self._requests: CoreReader | Generations | None = None
        self._events: EventReader | None = None
        self._deliver: Deliver = _nowhere
        self._prover: Deliver = _nowhere
        self._stopping = False

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        """Loads the model and has it answer one id. Raises EngineError."""
        if self._native is not None:
            raise EngineError("the engine has been started already")
        self._events = EventReader() if self._config.kv_events else None
        try:
            load = partial(self._config.load, self._events.address if self._events else "")
            self._native = native = await load_in_time(load, self._config.start_timeout_s, VLLM)
            if self._events is not None:
                self._events.begin()
            self._info = self._describe(native)
            kind = CoreReader if self._config.read_core and native.core_is_known else Generations
            _log.info("vLLM %s, read through %s", native.version, "its core" if kind is CoreReader else "AsyncLLM")
            failure: asyncio.Future[EngineError] = asyncio.get_running_loop().create_future()

            def died(error: EngineError) -> None:
                if not failure.done():
                    failure.set_result(error)
                if self._deliver is not _nowhere:
                    on_failure(error)

            self._requests = kind(native, self._hand_over, died)
            await self._prove(failure)
        except BaseException:
            await self.stop()
            raise
        self._deliver = deliver
        return self._info

    def submit(self, request: EngineRequest) -> None:
        """Starts a request. Raises EngineRefusal."""
        requests, info = self._requests, self._info
        if requests is None or info is None or requests.failed or self._stopping:
            raise EngineRefusal("the engine is not running")
        check_request(request, info)
        request = regions_spelled_out(request, self._config.special_ids, self._config.eos_token_ids)
        structured = structured_output(request.guide) if request.guide is not None else None
        requests.start(request, sampling_arguments(request, info), structured)

    def abort(self, key: int) -> None:
        """Asks a request to stop. Unknown: no-op."""
        if self._requests is not None:
            self._requests.abort(key)

    def load(self) -> EngineLoad:
        """Returns the load as of the last step."""
        requests, native = self._requests, self._native
        if requests is None or native is None:
            return EngineLoad(0)
        if requests.kv_usage < 0 or not native.blocks:
            return EngineLoad(requests.running, steps=requests.steps)
        free = int(native.blocks * (1 - requests.kv_usage))
        return EngineLoad(requests.running, free, native.blocks, requests.steps)

    def kv_events(self) -> Sequence[KvEvent]:
        """Returns and forgets the cache events."""
        return self._events.fetch() if self._events is not None else ()

    def pace_with(self, room: Callable[[], Awaitable[None]]) -> None:
        """Ignores it: every step computes."""

    async def stop(self) -> None:
        """Aborts what runs and ends vLLM's processes. Raises EngineError where a request hangs."""
        if self._stopping:
            return
        self._stopping = True
        try:
            if self._requests is not None:
                await self._requests.close(_STOP_S)
        finally:
            self._deliver = _nowhere
            if self._events is not None:
                self._events.close()
            if self._native is not None:
                await asyncio.to_thread(self._native.close)

    def _describe(self, native: NativeVllm) -> EngineInfo:
        config = self._config
        return EngineInfo(
            name="vllm",
            version=f"vllm {native.version}",
            max_model_len=native.max_model_len,
            vocab_size=native.vocab_size,
            eos_token_ids=config.eos_token_ids,
            max_running=config.max_running,
            kv_block_tokens=native.block_tokens,
            tells_kv_events=self._events is not None,
            unsupported_fields=_NOT_SPECULATIVE if config.speculative else frozenset(),
            approximate_fields=_APPROXIMATE | (_GUIDED if config.guides else {}),
            guide_kinds=guide_kinds(config.special_ids) if config.guides else frozenset(),
            options=native.options,
            kernel_tables=config.kernel_tables,
        )

    async def _prove(self, failure: asyncio.Future[EngineError]) -> None:
        """One id comes through, before anybody else's request does."""
        answered: asyncio.Future[Chunk] = asyncio.get_running_loop().create_future()

        def take(chunks: Sequence[Chunk]) -> None:
            for chunk in chunks:
                if chunk.finish is not None and not answered.done():
                    answered.set_result(chunk)

        self._prover = take
        self.submit(EngineRequest(0, [0], Sampling(temperature=0.0, max_tokens=1, ignore_eos=True)))
        waiting: set[asyncio.Future[Any]] = {answered, failure}
        await asyncio.wait(waiting, timeout=_FIRST_ID_S, return_when=asyncio.FIRST_COMPLETED)
        if failure.done():
            raise failure.result()
        if not answered.done():
            raise EngineError(f"vLLM loaded the model, but gave no id within {_FIRST_ID_S:.0f} s")
        chunk = answered.result()
        if len(chunk.token_ids) != 1:
            raise EngineError(f"vLLM gave {len(chunk.token_ids)} ids where one was asked for: {chunk.finish}")

    def _hand_over(self, chunks: Sequence[Chunk]) -> None:
        # Until the engine has started, its chunks are those of the proof.
        (self._prover if self._deliver is _nowhere else self._deliver)(chunks)


def _nowhere(chunks: Sequence[Chunk]) -> None:
    """Takes chunks when there is nobody to take them."""
