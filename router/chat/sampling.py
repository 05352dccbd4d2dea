"""Checks a request's sampling parameters and fills in what it left unset. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from qwenserve.runtime.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from qwenserve.type.v1 import sampling_pb2

MAX_CHOICES = 16
MAX_STOP_STRINGS = 16
MAX_LOGIT_BIAS = 300
MAX_TOP_LOGPROBS = 20


MAX_SALT = 256

# What "unset everywhere" means: no filter, no penalty.
NEUTRAL: Mapping[str, float | int | bool] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
    "ignore_eos": False,
}
# Whatever an engine says that it lacks: without it there is no generation.
_INDISPENSABLE = frozenset({"max_tokens"})


class _Range(NamedTuple):
    low: float
    high: float
    low_excluded: bool = False

    def holds(self, value: float) -> bool:
        return (self.low < value if self.low_excluded else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.low_excluded else f"{self.low:g}"
        return f"{low} to {self.high:g}" if math.isfinite(self.high) else f"{low} or more"


_RANGES = {
    "temperature": _Range(0, 2),
    "top_p": _Range(0, 1, low_excluded=True),
    "top_k": _Range(0, math.inf),
    "min_p": _Range(0, 1),
    "presence_penalty": _Range(-2, 2),
    "frequency_penalty": _Range(-2, 2),
    "repetition_penalty": _Range(0, 2, low_excluded=True),
    "max_tokens": _Range(1, math.inf),
    "min_tokens": _Range(0, math.inf),
    "top_logprobs": _Range(0, MAX_TOP_LOGPROBS),
}


def check_sampling(sampling: sampling_pb2.SamplingParams, vocab_size: int) -> None:
    """Raises InvalidRequest naming the first field out of range."""
    # Few of the fields are set in most requests: only those are looked at.
    for field, value in sampling.ListFields():
        name = field.name
        allowed = _RANGES.get(name)
        if allowed is not None:
            if not allowed.holds(value):
                raise InvalidRequest(f"{name} must be {allowed}, got {value:g}", param=name)
        elif name == "logit_bias":
            _check_bias(value, vocab_size)
        elif name == "stop_token_ids":
            for token_id in value:
                _check_id(token_id, vocab_size, name)


def check_prompt_ids(ids: Sequence[int], vocab_size: int, param: str) -> None:
    """Raises InvalidRequest for an empty prompt or an id outside the vocabulary."""
    if not ids:
        raise InvalidRequest("the prompt is empty; send at least one token", param=param)
    if min(ids) < 0 or max(ids) >= vocab_size:
        bad = next(i for i in ids if not 0 <= i < vocab_size)
        raise InvalidRequest(f"token id {bad} is outside the vocabulary (0 to {vocab_size - 1})", param=param)


def check_counts(n: int, stop_strings: Sequence[str]) -> None:
    """Raises InvalidRequest for too many choices or bad stop strings."""
    if not 0 <= n <= MAX_CHOICES:
        raise InvalidRequest(f"n must be 1 to {MAX_CHOICES}, got {n}", param="n")
    if len(stop_strings) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"stop has {len(stop_strings)} strings; at most {MAX_STOP_STRINGS} are allowed", param="stop"
        )
    if any(not stop for stop in stop_strings):
        raise InvalidRequest("stop must not contain an empty string", param="stop")


def check_cache_salt(cache_salt: str) -> None:
    """Raises InvalidRequest for one that is too long."""
    if len(cache_salt) > MAX_SALT:
        raise InvalidRequest(f"cache_salt has {len(cache_salt)} characters; at most {MAX_SALT}", param="cache_salt")


def complete(asked: sampling_pb2.SamplingParams, defaults: sampling_pb2.SamplingParams) -> sampling_pb2.SamplingParams:
    """Returns the parameters with `defaults` filled in; `defaults` has a value for every name of NEUTRAL."""
    full = sampling_pb2.SamplingParams()
    full.CopyFrom(defaults)
    full.MergeFrom(asked)
    return full


def filled_fields(asked: sampling_pb2.SamplingParams) -> list[str]:
    """Returns the names of the fields that `complete` fills."""
    return [name for name in NEUTRAL if not asked.HasField(name)]


def fit_window(sampling: sampling_pb2.SamplingParams, prompt_tokens: int, window: int, default_max: int) -> bool:
    """Sets `max_tokens` to what the window leaves, where unset or larger. Returns whether an asked value shrank.

    Raises ContextLengthExceeded where not even one token fits.
    """
    room = window - prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"this model's context window is {window} tokens, and the prompt has {prompt_tokens}; "
            f"shorten it to {window - 1} tokens or fewer",
            param="messages",
            metadata={"max_model_len": str(window), "prompt_tokens": str(prompt_tokens)},
        )
    asked = sampling.max_tokens if sampling.HasField("max_tokens") else 0
    sampling.max_tokens = min(asked or default_max or room, room)
    if sampling.min_tokens > sampling.max_tokens:
        raise InvalidRequest(
            f"min_tokens ({sampling.min_tokens}) is above max_tokens ({sampling.max_tokens})", param="min_tokens"
        )
    return asked > room


def seeds(asked: sampling_pb2.SamplingParams, count: int) -> list[int]:
    """One seed per choice: derived from the request's, or fresh."""
    if asked.HasField("seed"):
        return [(asked.seed + i) & 0x7FFFFFFF for i in range(count)]
    return [random.getrandbits(31) for _ in range(count)]


def drop_unsupported(
    asked: sampling_pb2.SamplingParams,
    sampling: sampling_pb2.SamplingParams,
    unsupported: Collection[str],
    *,
    asked_besides: Collection[str] = (),
    strict: bool,
    engine: str,
) -> list[str]:
    """Takes what the engine cannot honour out of `sampling`, defaults included.

    Returns the fields among them that the request itself set: those of `asked`, and of `asked_besides`, the names of
    such fields outside of the sampling parameters. Raises Unsupported where there are any and `strict` is set.
    """
    names = []
    for name in sorted(unsupported):
        field = asked.DESCRIPTOR.fields_by_name.get(name)
        if name in asked_besides:
            names.append(name)
        if field is None or name in _INDISPENSABLE:
            continue
        if asked.HasField(name) if field.has_presence else getattr(asked, name):
            names.append(name)
        if name in NEUTRAL:
            setattr(sampling, name, NEUTRAL[name])
        else:
            sampling.ClearField(name)
    if names and strict:
        raise Unsupported(f"the {engine} engine cannot apply {names[0]}; leave it out", param=names[0])
    return names


def _check_bias(biases: Mapping[int, float], vocab_size: int) -> None:
    if len(biases) > MAX_LOGIT_BIAS:
        raise InvalidRequest(
            f"logit_bias has {len(biases)} entries; at most {MAX_LOGIT_BIAS} are allowed", param="logit_bias"
        )
    for token_id, bias in biases.items():
        _check_id(token_id, vocab_size, "logit_bias")
        if not -100 <= bias <= 100:
            raise InvalidRequest(f"logit_bias must be -100 to 100, got {bias:g} for {token_id}", param="logit_bias")


def _check_id(token_id: int, vocab_size: int, param: str) -> None:
    if not 0 <= token_id < vocab_size:
        raise InvalidRequest(
            f"{param}: token id {token_id} is outside the vocabulary (0 to {vocab_size - 1})", param=param
        )
