"""A stand-in for tensorrt_llm 1.2.1 where its wheels cannot be had, built from the table of its names.

It rejects names and arguments that the release does not have, hands out the same result object at each step with lists
that grow, never cancels on its own, raises what the release documents, and dies as it does. The simulated engine is
behind it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from qwenserve.worker.engine_interface import Chunk, EngineRequest, FinishReason, Sampling, TokenLogprob
from qwenserve.worker.engines.simulated.engine import SimulatedConfig, SimulatedEngine
from tests.worker.engines.trtllm import api_1_2_1 as api

CONFIG = SimulatedConfig(
    vocab_size=1000,
    eos_token_ids=(998, 999),
    max_model_len=512,
    max_running=4,
    step_s=0.0005,
    prefill_tokens_per_s=1e6,
    kv_block_tokens=32,
)
NEVER = -1e8


class RequestError(RuntimeError):
    """What the package raises for one request."""


SamplingParams: Any = dataclasses.make_dataclass(
    "SamplingParams",
    [(name, Any, dataclasses.field(default=default)) for name, default in api.SAMPLING.items()],
    kw_only=True,
    slots=True,
)


def config_class(name: str) -> Any:
    """A class of the package that takes the arguments it has."""

    def begin(self: Any, **values: Any) -> None:
        unknown = values.keys() - set(api.CLASSES.get(name, ()))
        if unknown:
            raise ValueError(f"{name}: extra inputs are not permitted: {sorted(unknown)}")
        self.__dict__.update(values)

    return type(name, (), {"__init__": begin})


class Result:
    """A request's result: one object, whose lists grow."""

    def __init__(self, llm: Llm, key: int, prompt: Sequence[int]) -> None:
        self._llm, self._key = llm, key
        self._steps: asyncio.Queue[Any] = asyncio.Queue()
        self.request_id = key
        self.prompt_token_ids = list(prompt)
        self.finished = False
        self.cached_tokens = 0
        self.outputs = [SimpleNamespace(index=0, token_ids=[], logprobs=[], finish_reason=None, stop_reason=None)]
        self.aborts = 0

    def abort(self) -> None:
        self.aborts += 1
        self._llm.engine.abort(self._key)

    def __aiter__(self) -> Result:
        return self

    async def __anext__(self) -> Result:
        if self.finished:
            raise StopAsyncIteration
        step = await self._steps.get()
        if isinstance(step, Exception):
            raise step
        part = self.outputs[0]
        part.token_ids.extend(step.token_ids)
        if step.logprobs is not None:
            part.logprobs.extend(map(_logprobs, step.logprobs))
        if step.finish is not None:
            self.finished = True
            self.cached_tokens = step.finish.cached_tokens
            reasons = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.ABORTED: "cancelled"}
            part.finish_reason = reasons[step.finish.reason]
            stop = step.finish.stop_token_id
            # It does not say which one where it was the end id.
            part.stop_reason = None if stop == self.parameters.end_id and not self.parameters.ignore_eos else stop
        return self

    parameters: Any = None


def _logprobs(row: TokenLogprob) -> dict[int, Any]:
    """The most likely ids by rank, and the one that came where it is not among them."""
    values = dict(row.top) | ({} if row.token_id in dict(row.top) else {row.token_id: row.logprob})
    return {token: SimpleNamespace(logprob=value, rank=n + 1) for n, (token, value) in enumerate(values.items())}


class Llm:
    """`tensorrt_llm.LLM`."""

    made: list[Llm]
    arguments_known = api.LLM_ARGUMENTS

    def __init__(self, **arguments: Any) -> None:
        for name in arguments:
            if name not in self.arguments_known:
                raise ValueError(f"TorchLlmArgs got invalid argument: {name}")
        self.arguments = arguments
        self.engine = SimulatedEngine(CONFIG)
        self.results: dict[int, Result] = {}
        self.seen: list[Any] = []
        self.calls: list[Mapping[str, Any]] = []
        self.dead = False
        self.shutdowns = 0
        self.statistics = [{"iter": 7, "kvCacheStats": {"freeNumBlocks": 30, "maxNumBlocks": 40}}]
        self.events: list[Mapping[str, Any]] = []
        self._keys = itertools.count(2)
        self._started: asyncio.Task[Any] | None = None
        type(self).made.append(self)

    def generate_async(self, **call: Any) -> Result:
        unknown = call.keys() - set(api.GENERATE_ASYNC)
        if unknown:
            raise TypeError(f"generate_async() got an unexpected keyword argument {sorted(unknown)}")
        if self.dead:
            raise RuntimeError("LLM is shutting down")
        parameters = call["sampling_params"]
        assert parameters.end_id is not None, "no tokenizer to reset `end_id`"
        assert all(parameters is not before for before in self.seen), "parameters are for one request"
        assert call["streaming"] is True
        self.seen.append(parameters)
        self.calls.append(call)
        prompt = call["inputs"]["prompt_token_ids"]
        key = next(self._keys)
        result = self.results[key] = Result(self, key, prompt)
        result.parameters = parameters
        sampling = _sampling(parameters)
        # What it writes into an object shows where one is used twice.
        parameters.max_tokens = -1
        offset = min(parameters.prompt_ignore_length, len(prompt))
        request = EngineRequest(key, prompt, sampling, call.get("cache_salt") or "", answer_offset=offset)
        self._submit(request)
        return result

    async def get_stats_async(self, timeout: float) -> AsyncIterator[Mapping[str, Any]]:
        while self.statistics:
            yield self.statistics.pop()

    async def get_kv_cache_events_async(self, timeout: float) -> AsyncIterator[Mapping[str, Any]]:
        while self.events:
            yield self.events.pop(0)

    def _check_health(self) -> bool:
        return not self.dead

    def shutdown(self) -> None:
        self.shutdowns += 1

    def die(self, error: Exception) -> None:
        """A worker has died: every result raises, and so does every call."""
        self.dead = True
        for result in self.results.values():
            result._steps.put_nowait(error)

    def _submit(self, request: EngineRequest) -> None:
        async def begin() -> None:
            await self.engine.start(self._take, lambda _: None)

        if self._started is None:
            self._started = asyncio.get_running_loop().create_task(begin())
        self._started.add_done_callback(lambda _: self.engine.submit(request))

    def _take(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self.results[chunk.key]._steps.put_nowait(chunk)
            if chunk.finish is not None:
                del self.results[chunk.key]


def _generate_async_signature() -> inspect.Signature:
    names = ["self", *api.GENERATE_ASYNC]
    return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names])


Llm.generate_async.__signature__ = _generate_async_signature()  # type: ignore[attr-defined]


def _sampling(p: Any) -> Sampling:
    assert p.detokenize is False
    assert p.stop is None, "text belongs to routers"
    assert p.bad is None
    assert p.include_stop_str_in_output, "the stop token would be cut off"
    assert 0 <= p.seed < 2**64
    bias = {n: v for n, v in enumerate(p.embedding_bias or ()) if v and v > NEVER}
    allowed = frozenset(n for n, v in enumerate(p.embedding_bias or ()) if v > NEVER)
    greedy = p.top_k == 1 or (p.temperature is None and p.top_k is None and p.top_p is None)
    stops = frozenset(p.stop_token_ids or ()) | (frozenset() if p.ignore_eos else {p.end_id})
    return Sampling(
        temperature=0.0 if greedy else p.temperature,
        top_p=p.top_p if p.top_p is not None else 1.0,
        top_k=0 if greedy else p.top_k or 0,
        min_p=p.min_p or 0.0,
        seed=p.seed - 2**64 if p.seed >= 2**63 else p.seed,
        presence_penalty=p.presence_penalty or 0.0,
        frequency_penalty=p.frequency_penalty or 0.0,
        repetition_penalty=p.repetition_penalty or 1.0,
        logit_bias=bias,
        max_tokens=p.max_tokens,
        min_tokens=p.min_tokens or 0,
        stop_token_ids=stops,
        ignore_eos=True,
        top_logprobs=p.logprobs or None,
        allowed_token_ids=allowed if p.embedding_bias and len(allowed) < len(p.embedding_bias) else frozenset(),
    )


def install(monkeypatch: pytest.MonkeyPatch, version: str = api.VERSION) -> type[Llm]:
    """Makes `import tensorrt_llm` find the stand-in; returns its LLM, whose `made` holds the instances."""
    llm = type("LLM", (Llm,), {"made": []})
    modules = {name: ModuleType(name) for name in api.EXPORTS}
    for name, exports in api.EXPORTS.items():
        for export in exports:
            setattr(modules[name], export, config_class(export))
    for module in modules.values():
        module.__dict__.update(LLM=llm)
    args = {name: SimpleNamespace() for name in api.LLM_ARGUMENTS}
    modules["tensorrt_llm"].__dict__.update(__version__=version, SamplingParams=SamplingParams)
    modules["tensorrt_llm.llmapi"].__dict__.update(
        SamplingParams=SamplingParams,
        RequestError=RequestError,
        TorchLlmArgs=SimpleNamespace(model_fields=args),
        TrtLlmArgs=SimpleNamespace(model_fields=dict.fromkeys(api.ENGINE_ARGUMENTS)),
    )
    torch = ModuleType("torch")
    torch.__dict__.update(tensor=lambda values, dtype: list(values), float32="float32")
    for name, module in (*modules.items(), ("torch", torch)):
        monkeypatch.setitem(sys.modules, name, module)
    return llm
