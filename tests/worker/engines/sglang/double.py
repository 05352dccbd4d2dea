"""A stand-in for SGLang 0.5.17 where there is no GPU: its names and its habits, with the simulated engine behind.

It rejects fields and parameters that SGLang does not have, ignores what SGLang ignores (stop tokens with ignore_eos,
seeds unless deterministic, when it takes no min_p), puts bias into log-probabilities, aborts every request whose id
begins like the one named, forgets requests that nobody reads, and ends aborted ones with their last id once more.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from qwenserve.worker.engine_interface import (
    Chunk,
    EngineError,
    EngineRequest,
    FinishReason,
    Guide,
    GuideKind,
    Sampling,
    TokenLogprob,
)
from qwenserve.worker.engines.simulated.engine import SimulatedConfig, SimulatedEngine
from qwenserve.worker.guides.matcher import GuideVocabulary
from tests.worker.engines.model_directories import END, OTHER_END, VOCAB

# Fields of GenerateReqInput and of SamplingParams that the adapter may use, as the release has them.
FIELDS = frozenset(
    [
        "rid",
        "input_ids",
        "sampling_params",
        "return_logprob",
        "logprob_start_len",
        "top_logprobs_num",
        "stream",
        "priority",
        "extra_key",
        "external_trace_header",
    ]
)
PARAMETERS = frozenset(
    [
        "max_new_tokens",
        "stop_token_ids",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "min_new_tokens",
        "json_schema",
        "regex",
        "ebnf",
        "ignore_eos",
        "logit_bias",
        "sampling_seed",
    ]
)

GUIDES = {"json_schema": GuideKind.JSON_SCHEMA, "regex": GuideKind.REGEX, "ebnf": GuideKind.GRAMMAR}


class _State:
    def __init__(self, key: int, biased: bool) -> None:
        self.key = key
        self.biased = biased
        self.ids: list[int] = []
        self.prompt: list[Any] | None = None
        self.prompt_top: list[Any] = []
        self.steps: asyncio.Queue[dict[str, Any]] = asyncio.Queue()


class SglangDouble:
    """Has the methods of `NativeSglang`."""

    version = "0.5.17"
    options: Mapping[str, Any] = {"tp_size": 1}

    def __init__(
        self,
        *,
        vocabulary: GuideVocabulary | None = None,
        deterministic: bool = True,
        config: SimulatedConfig | None = None,
    ) -> None:
        """`vocabulary`: of the tokenizer that is loaded inside, None where it is not."""
        self.config = config or SimulatedConfig(
            vocab_size=VOCAB,
            eos_token_ids=(END, OTHER_END),
            max_model_len=512,
            max_running=4,
            step_s=0.0005,
            prefill_tokens_per_s=1e6,
        )
        self.max_model_len = self.config.window
        self.vocab_size = self.config.vocab_size
        self.tokenizer = vocabulary is not None
        self.deterministic = deterministic
        self.seen: list[Mapping[str, Any]] = []
        self.closed = 0
        self._engine = SimulatedEngine(self.config, vocabulary)
        self._keys = itertools.count(1)
        self._states: dict[str, _State] = {}
        self._names: dict[int, str] = {}
        self._on_end: Callable[[str], None] | None = None
        self._started = False
        self._dead = False

    def attach(self, on_end: Callable[[str], None]) -> None:
        self._on_end = on_end
        if self._dead:
            on_end("a process is gone")

    @property
    def running(self) -> int:
        """Requests that are computed, whether anybody reads them or not."""
        return len(self._names)

    def detach(self) -> None:
        self._on_end = None

    def die(self) -> None:
        """One of SGLang's processes is gone; requests then wait for ever."""
        self._dead = True
        if self._on_end is not None:
            self._on_end("one of its processes is gone")

    async def tokens(self) -> tuple[int, int]:
        return 256, 1024

    async def generate(self, **fields: Any) -> AsyncGenerator[Mapping[str, Any], None]:
        assert not fields.keys() - FIELDS, f"GenerateReqInput has no {fields.keys() - FIELDS}"
        given: dict[str, Any] = fields["sampling_params"]
        assert not given.keys() - PARAMETERS, f"SamplingParams has no {given.keys() - PARAMETERS}"
        self.seen.append(fields)
        name: str = fields["rid"]
        assert name not in self._states, "the id is in use"
        if len(fields["input_ids"]) >= self.max_model_len:
            raise ValueError("The input is longer than the model's context length")
        if given.get("min_new_tokens") and not self.tokenizer:
            raise ValueError("min_new_tokens is unavailable when skip_tokenizer_init=True")
        if not self._started:
            self._started = True
            await self._engine.start(self._take, self._fail)
        state = self._states[name] = _State(next(self._keys), bool(given.get("logit_bias")))
        self._names[state.key] = name
        try:
            if not self._dead:
                self._engine.submit(self._request(state, fields, given))
            while True:
                step = await state.steps.get()
                yield step
                if step["meta_info"]["finish_reason"] is not None:
                    return
        finally:
            # Nobody reads: the manager forgets the request, and the scheduler goes on.
            del self._states[name]

    def abort(self, name: str) -> None:
        if name not in self._states:
            return
        for other in [each for each in self._states if each.startswith(name)]:
            self._engine.abort(self._states[other].key)

    def close(self) -> None:
        self.closed += 1

    def _request(self, state: _State, fields: Mapping[str, Any], given: Mapping[str, Any]) -> EngineRequest:
        wants = fields.get("return_logprob", False)
        top = fields["top_logprobs_num"] if wants else None
        from_start = wants and fields["logprob_start_len"] == 0
        assert not (self.deterministic and given["min_p"]), "the scheduler would end"
        ends = {*given["stop_token_ids"], *self.config.eos_token_ids}
        sampling = Sampling(
            temperature=given["temperature"],
            top_p=given["top_p"],
            top_k=max(0, given["top_k"]),
            min_p=given["min_p"],
            seed=given["sampling_seed"] if self.deterministic else random.getrandbits(32),
            presence_penalty=given["presence_penalty"],
            frequency_penalty=given["frequency_penalty"],
            repetition_penalty=given["repetition_penalty"],
            logit_bias={int(token): value for token, value in given.get("logit_bias", {}).items()},
            max_tokens=given["max_new_tokens"],
            min_tokens=given.get("min_new_tokens", 0),
            stop_token_ids=frozenset() if given["ignore_eos"] else frozenset(ends),
            ignore_eos=True,
            top_logprobs=top,
        )
        guides = [Guide(kind, given[name]) for name, kind in GUIDES.items() if name in given]
        assert not guides[1:], "only one of them can be set"
        assert not guides or self.tokenizer
        return EngineRequest(
            state.key,
            fields["input_ids"],
            sampling,
            fields.get("extra_key", ""),
            priority=fields["priority"],
            prompt_logprobs=top if from_start else None,
            guide=guides[0] if guides else None,
        )

    def _take(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            name = self._names[chunk.key]
            state = self._states.get(name)
            if chunk.finish is not None:
                del self._names[chunk.key]
            if state is not None:
                state.steps.put_nowait(_step(state, chunk))

    def _fail(self, error: EngineError) -> None:
        self.die()


def _step(state: _State, chunk: Chunk) -> dict[str, Any]:
    state.ids += chunk.token_ids
    meta: dict[str, Any] = {"id": "", "finish_reason": None, "prompt_tokens": 1}
    if chunk.logprobs is not None:
        # A bias is in them: what it makes of a log-probability is another number.
        rows = [_spoilt(row) if state.biased else row for row in chunk.logprobs]
        meta["output_token_logprobs"] = [(row.logprob, row.token_id, None) for row in rows]
        meta["output_top_logprobs"] = [_pairs(row) for row in rows]
    if chunk.prompt_logprobs:
        state.prompt = [(None, 0, None)] + [(row.logprob, row.token_id, None) for row in chunk.prompt_logprobs]
        state.prompt_top = [None] + [_pairs(row) for row in chunk.prompt_logprobs]
    if chunk.logprobs is not None:
        meta["input_token_logprobs"] = state.prompt or [(None, 0, None)]
        meta["input_top_logprobs"] = state.prompt_top or [None]
    finish = chunk.finish
    if finish is None:
        return {"output_ids": list(chunk.token_ids), "meta_info": meta}
    # The simulated engine tells with the finish.
    meta["cached_tokens"] = finish.cached_tokens
    if finish.reason is FinishReason.ABORTED:
        return _ended(state, {"type": "abort", "message": finish.error or "Aborted"})
    # Where a guide is complete the last id is named, whichever it is.
    matched = state.ids[-1] if finish.stop_token_id is None else finish.stop_token_id
    stopped = finish.reason is FinishReason.STOP
    meta["finish_reason"] = {"type": "stop", "matched": matched} if stopped else {"type": "length"}
    return {"output_ids": list(chunk.token_ids), "meta_info": meta}


def _ended(state: _State, reason: Mapping[str, Any]) -> dict[str, Any]:
    return {"output_ids": state.ids[-1:], "meta_info": {"id": "", "finish_reason": reason}}


def _pairs(row: TokenLogprob) -> list[tuple[float, int, None]] | None:
    return [(value, token, None) for token, value in row.top] or None


def _spoilt(row: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(row.token_id, row.logprob / 2 - 1, [(token, value / 2 - 1) for token, value in row.top])
