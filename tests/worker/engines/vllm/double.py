"""A stand-in for vLLM 0.26 where there is no GPU: its names and its habits, with the simulated engine behind.

It rejects arguments that `SamplingParams` does not have, names outputs as vLLM's core and AsyncLLM do, says nothing of
a request that was aborted, and dies as the real one does.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from qwenserve.worker.engine_interface import Chunk, EngineError, EngineRequest, FinishReason, Sampling
from qwenserve.worker.engines.simulated.engine import SimulatedConfig, SimulatedEngine
from qwenserve.worker.engines.vllm.sampling import StructuredOutput

# The arguments of vLLM 0.26's SamplingParams that the adapter may use.
PARAMETERS = frozenset(
    [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "max_tokens",
        "min_tokens",
        "stop_token_ids",
        "ignore_eos",
        "logprobs",
        "prompt_logprobs",
        "detokenize",
        "skip_clone",
        "logit_bias",
        "allowed_token_ids",
    ]
)
REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.ABORTED: "abort"}


class EngineDead(Exception):
    """What vLLM raises once its core is gone."""


class VllmDouble:
    """Has the methods of `NativeVllm`."""

    version = "0.26.0"
    block_tokens = 16
    blocks = 1000
    options: Mapping[str, Any] = {"block_size": 16}

    def __init__(self, *, core_is_known: bool = True, config: SimulatedConfig | None = None) -> None:
        self.config = config or SimulatedConfig(
            max_model_len=512, max_running=4, step_s=0.0005, prefill_tokens_per_s=1e6
        )
        self.max_model_len = self.config.window
        self.vocab_size = self.config.vocab_size
        self.core_is_known = core_is_known
        self.core = self
        self.errored = False
        self.closed = 0
        self.seen: list[Mapping[str, Any]] = []
        self.traced: list[str] = []
        self._engine = SimulatedEngine(self.config)
        self._keys = itertools.count(1)
        self._ids: dict[int, str] = {}
        self._take_step: Callable[[Any], None] | None = None
        self._streams: dict[str, asyncio.Queue[Any]] = {}
        self._started = False

    def die(self) -> None:
        """The core's process is gone."""
        self.errored = True
        self._say(EngineDead("the core is gone"))
        for queue in self._streams.values():
            queue.put_nowait(EngineDead("the core is gone"))

    def parameters(self, arguments: Mapping[str, Any], structured: StructuredOutput | None) -> Any:
        unknown = arguments.keys() - PARAMETERS
        assert not unknown, f"SamplingParams has no {unknown}"
        if structured is not None and structured.value == "bad":
            raise ValueError("bad grammar")
        self.seen.append({**arguments, "structured": structured})
        return arguments

    def core_request(self, request_id: str, prompt: Sequence[int], salt: str, parameters: Any, priority: int) -> Any:
        assert parameters["logprobs"] is None or parameters["logprobs"] <= 20
        return SimpleNamespace(
            request_id=f"{request_id}-random", prompt=prompt, salt=salt, parameters=parameters, priority=priority
        )

    async def add_request_async(self, made: Any) -> None:
        if self.errored:
            raise EngineDead("the core is gone")
        if not self._started:
            self._started = True
            await self._engine.start(self._take, self._fail)
        key = next(self._keys)
        self._ids[key] = made.request_id
        self._engine.submit(
            EngineRequest(
                key,
                made.prompt,
                _sampling(made.parameters),
                made.salt,
                priority=-made.priority,
                prompt_logprobs=made.parameters["prompt_logprobs"],
            )
        )

    async def abort_requests_async(self, request_ids: Sequence[str]) -> None:
        for key, request_id in list(self._ids.items()):
            if request_id in request_ids:
                del self._ids[key]
                self._engine.abort(key)

    def give_steps_to(self, take: Callable[[Any], None]) -> None:
        self._take_step = take
        if self.errored:
            self._say(EngineDead("the core is gone"))

    async def generate(
        self, request_id: str, prompt: Sequence[int], salt: str, parameters: Any, priority: int, traceparent: str
    ) -> AsyncGenerator[Any, None]:
        self.traced.append(traceparent)
        made = self.core_request(request_id, prompt, salt, parameters, priority)
        queue = self._streams[made.request_id] = asyncio.Queue()
        try:
            await self.add_request_async(made)
            while True:
                output = await queue.get()
                if isinstance(output, Exception):
                    raise output
                yield _request_output(output, prompt)
                if output.finish_reason is not None:
                    return
        finally:
            del self._streams[made.request_id]
            await self.abort_requests_async([made.request_id])

    def is_dead(self, error: BaseException) -> bool:
        return isinstance(error, EngineDead)

    def close(self) -> None:
        self.closed += 1

    def _take(self, chunks: Sequence[Chunk]) -> None:
        outputs = []
        for chunk in chunks:
            request_id = self._ids.get(chunk.key)
            if request_id is None:
                continue
            output = _core_output(request_id, chunk)
            outputs.append(output)
            if request_id in self._streams:
                self._streams[request_id].put_nowait(output)
            if chunk.finish is not None:
                del self._ids[chunk.key]
        if outputs:
            # What the core says of its cache comes before, with no output in it.
            self._say(SimpleNamespace(outputs=[], scheduler_stats=SimpleNamespace(kv_cache_usage=0.25)))
            self._say(SimpleNamespace(outputs=outputs, scheduler_stats=None))

    def _say(self, what: Any) -> None:
        """In a later turn, as all comes through a socket."""
        if self._take_step is not None:
            asyncio.get_running_loop().call_soon(self._take_step, what)

    def _fail(self, error: EngineError) -> None:
        self.die()


def _sampling(parameters: Mapping[str, Any]) -> Sampling:
    assert parameters["detokenize"] is False
    assert parameters["seed"] != -1, "vLLM takes it for no seed"
    return Sampling(
        temperature=parameters["temperature"],
        top_p=parameters["top_p"],
        top_k=parameters["top_k"],
        min_p=parameters["min_p"],
        seed=parameters["seed"],
        presence_penalty=parameters["presence_penalty"],
        frequency_penalty=parameters["frequency_penalty"],
        repetition_penalty=parameters["repetition_penalty"],
        logit_bias=parameters.get("logit_bias", {}),
        max_tokens=parameters["max_tokens"],
        min_tokens=parameters["min_tokens"],
        stop_token_ids=frozenset(parameters["stop_token_ids"]),
        ignore_eos=parameters["ignore_eos"],
        top_logprobs=parameters["logprobs"],
        allowed_token_ids=frozenset(parameters.get("allowed_token_ids", ())),
    )


def _core_output(request_id: str, chunk: Chunk) -> Any:
    finish = chunk.finish
    return SimpleNamespace(
        request_id=request_id,
        new_token_ids=list(chunk.token_ids),
        new_logprobs=_tables(chunk.logprobs),
        new_prompt_logprobs_tensors=_tables(chunk.prompt_logprobs),
        finish_reason=REASONS[finish.reason] if finish else None,
        stop_reason=finish.stop_token_id if finish else None,
        # The simulated engine tells with the finish; what comes twice counts once.
        prefill_stats=SimpleNamespace(num_cached_tokens=finish.cached_tokens) if finish else None,
    )


def _tables(rows: Any) -> Any:
    """Rows as arrays, with a column more than was asked for: the batch's widest request decides."""
    if not rows:
        return None
    ids = np.array([[row.token_id, *(token for token, _ in row.top), 7] for row in rows])
    values = np.array([[row.logprob, *(value for _, value in row.top), -99.0] for row in rows])
    return ids, values, None, None


def _request_output(output: Any, prompt: Sequence[int]) -> Any:
    """What AsyncLLM makes of a core's output: a mapping for each position, its own id first."""
    scored = _mappings(output.new_logprobs)
    before = _mappings(output.new_prompt_logprobs_tensors)
    part = SimpleNamespace(
        token_ids=output.new_token_ids,
        logprobs=scored,
        finish_reason=output.finish_reason,
        stop_reason=output.stop_reason,
    )
    cached = output.prefill_stats.num_cached_tokens if output.prefill_stats else None
    return SimpleNamespace(
        outputs=[part], num_cached_tokens=cached, prompt_logprobs=[None, *before] if before is not None else None
    )


def _mappings(tables: Any) -> list[dict[int, Any]] | None:
    if tables is None:
        return None
    ids, values = tables[0].tolist(), tables[1].tolist()
    # In AsyncLLM's mappings there is no more than was asked for.
    return [
        {i: SimpleNamespace(logprob=v) for i, v in zip(row[:-1], scores[:-1], strict=True)}
        for row, scores in zip(ids, values, strict=True)
    ]
