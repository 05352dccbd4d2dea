"""Wire messages to engine values and back. Every refusal names the field at fault."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qwenserve.runtime.errors import ContextLengthExceeded, InvalidRequest, ServiceError, Unsupported
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.engine_interface import EngineInfo, Finish, Sampling, TokenLogprob
from qwenserve.worker.v1 import worker_pb2

MAX_LOGIT_BIAS = 300
MAX_TOP_LOGPROBS = 20

# What `Generate` uses where a caller set nothing: filters off, a short answer.
NEUTRAL = sampling_pb2.SamplingParams(
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
    max_tokens=16,
    min_tokens=0,
    ignore_eos=False,
)


class _Range(NamedTuple):
    """Allowed values of a number: `low` to `high`, without `low` itself where `open_low`."""

    low: float
    high: float
    neutral: float
    open_low: bool = False

    def allows(self, value: float) -> bool:
        """Written so that NaN is never allowed."""
        return self.low <= value <= self.high and not (self.open_low and value == self.low)


_MAX_INT32 = 2**31 - 1

_RANGES = {
    "temperature": _Range(0, 2, 1),
    "top_p": _Range(0, 1, 1, open_low=True),
    "top_k": _Range(0, _MAX_INT32, 0),
    "min_p": _Range(0, 1, 0),
    "presence_penalty": _Range(-2, 2, 0),
    "frequency_penalty": _Range(-2, 2, 0),
    "repetition_penalty": _Range(0, 2, 1, open_low=True),
    "max_tokens": _Range(1, _MAX_INT32, 0),
    "min_tokens": _Range(0, _MAX_INT32, 0),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request is checked against."""

    vocab_size: int
    max_model_len: int
    max_top_logprobs: int = MAX_TOP_LOGPROBS
    unsupported_fields: frozenset[str] = frozenset()

    @classmethod
    def of(cls, info: EngineInfo) -> Limits:
        """Returns the limits of an engine."""
        return cls(info.vocab_size, info.max_model_len, info.max_top_logprobs, info.unsupported_fields)


def prompt_from(token_ids: Iterable[int], limits: Limits) -> list[int]:
    """Returns a prompt's ids. Raises InvalidRequest or ContextLengthExceeded."""
    ids = list(token_ids)
    if not ids:
        raise InvalidRequest("prompt_token_ids: at least one id is needed", param="prompt_token_ids")
    if len(ids) >= limits.max_model_len:
        raise _too_long(len(ids), 1, limits, "prompt_token_ids")
    if min(ids) < 0 or max(ids) >= limits.vocab_size:
        index, bad = next((i, value) for i, value in enumerate(ids) if not 0 <= value < limits.vocab_size)
        raise _outside(f"prompt_token_ids[{index}]", bad, limits)
    return ids


def sampling_from(params: sampling_pb2.SamplingParams, prompt_tokens: int, limits: Limits) -> Sampling:
    """Returns checked sampling parameters; every field but `seed` and `top_logprobs` must be set.

    Raises InvalidRequest, Unsupported, or ContextLengthExceeded when prompt and `max_tokens` do not fit together.
    """
    values: dict[str, float] = {}
    for name, allowed in _RANGES.items():
        if not params.HasField(name):
            raise InvalidRequest(f"sampling.{name}: must be set", param=f"sampling.{name}")
        value = getattr(params, name)
        if not allowed.allows(value):
            above = "above " if allowed.open_low else ""
            raise InvalidRequest(
                f"sampling.{name}: {value} is not in {above}{allowed.low:g} to {allowed.high:g}",
                param=f"sampling.{name}",
            )
        if name in limits.unsupported_fields and value != allowed.neutral:
            raise _unsupported(name)
        values[name] = value
    if not params.HasField("ignore_eos"):
        raise InvalidRequest("sampling.ignore_eos: must be set", param="sampling.ignore_eos")
    if prompt_tokens + params.max_tokens > limits.max_model_len:
        raise _too_long(prompt_tokens, params.max_tokens, limits, "sampling.max_tokens")
    if params.min_tokens > params.max_tokens:
        raise InvalidRequest(
            f"sampling.min_tokens: {params.min_tokens} is more than max_tokens, {params.max_tokens}",
            param="sampling.min_tokens",
        )
    _check_unsupported(params, limits)
    return Sampling(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=params.seed if params.HasField("seed") else secrets.randbits(63),
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        logit_bias=_logit_bias(params, limits),
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        stop_token_ids=_stop_token_ids(params, limits),
        ignore_eos=params.ignore_eos,
        top_logprobs=_top_logprobs(params, limits),
    )


def with_neutral(params: sampling_pb2.SamplingParams) -> sampling_pb2.SamplingParams:
    """Returns `params` with the neutral value in every unset field."""
    complete = sampling_pb2.SamplingParams()
    complete.CopyFrom(NEUTRAL)
    complete.MergeFrom(params)
    return complete


def finish_to_wire(handle: int, finish: Finish, queue_us: int) -> worker_pb2.Finish:
    """Returns the end of a request as the engine told it."""
    wire = worker_pb2.Finish(
        handle=handle,
        reason=int(finish.reason),  # type: ignore[arg-type]  # equal numbers by contract
        cached_tokens=finish.cached_tokens,
        queue_us=queue_us,
    )
    if finish.stop_token_id is not None:
        wire.stop_token_id = finish.stop_token_id
    if finish.error:
        wire.reason = sampling_pb2.FINISH_REASON_ABORTED
        wire.error_reason = ServiceError.reason
        wire.error_message = finish.error
    return wire


def failure_to_wire(handle: int, error: ServiceError | None, queue_us: int = 0) -> worker_pb2.Finish:
    """Returns the end of a request that failed, or that the caller itself aborted (None)."""
    return worker_pb2.Finish(
        handle=handle,
        reason=sampling_pb2.FINISH_REASON_ABORTED,
        error_reason=error.reason if error is not None else "",
        error_message=error.message if error is not None else "",
        queue_us=queue_us,
    )


def logprob_to_wire(logprob: TokenLogprob) -> sampling_pb2.TokenLogprob:
    """Returns one token's log-probability; no text exists here."""
    return sampling_pb2.TokenLogprob(
        token_id=logprob.token_id,
        logprob=logprob.logprob,
        top_logprobs=[sampling_pb2.TopLogprob(token_id=token, logprob=value) for token, value in logprob.top],
    )


def _logit_bias(params: sampling_pb2.SamplingParams, limits: Limits) -> dict[int, float]:
    bias = dict(params.logit_bias)
    if len(bias) > MAX_LOGIT_BIAS:
        raise InvalidRequest(
            f"sampling.logit_bias: {len(bias)} entries, {MAX_LOGIT_BIAS} at most", param="sampling.logit_bias"
        )
    for token, value in bias.items():
        if not 0 <= token < limits.vocab_size:
            raise _outside(f"sampling.logit_bias[{token}]", token, limits)
        if not -100 <= value <= 100:
            raise InvalidRequest(
                f"sampling.logit_bias[{token}]: {value} is not in -100 to 100", param=f"sampling.logit_bias[{token}]"
            )
    return bias


def _stop_token_ids(params: sampling_pb2.SamplingParams, limits: Limits) -> frozenset[int]:
    for index, token in enumerate(params.stop_token_ids):
        if not 0 <= token < limits.vocab_size:
            raise _outside(f"sampling.stop_token_ids[{index}]", token, limits)
    return frozenset(params.stop_token_ids)


def _top_logprobs(params: sampling_pb2.SamplingParams, limits: Limits) -> int | None:
    if not params.HasField("top_logprobs"):
        return None
    most = min(limits.max_top_logprobs, MAX_TOP_LOGPROBS)
    if not 0 <= params.top_logprobs <= most:
        raise InvalidRequest(
            f"sampling.top_logprobs: {params.top_logprobs} is not in 0 to {most}", param="sampling.top_logprobs"
        )
    return params.top_logprobs


def _check_unsupported(params: sampling_pb2.SamplingParams, limits: Limits) -> None:
    asked: Sequence[tuple[str, bool]] = (
        ("seed", params.HasField("seed")),
        ("logit_bias", bool(params.logit_bias)),
        ("stop_token_ids", bool(params.stop_token_ids)),
        ("ignore_eos", params.ignore_eos),
        ("top_logprobs", params.HasField("top_logprobs")),
    )
    for name, is_set in asked:
        if is_set and name in limits.unsupported_fields:
            raise _unsupported(name)


def _unsupported(name: str) -> Unsupported:
    return Unsupported(f"sampling.{name}: this worker's engine cannot honour it", param=f"sampling.{name}")


def _outside(path: str, token: int, limits: Limits) -> InvalidRequest:
    return InvalidRequest(f"{path}: id {token} is outside the vocabulary of {limits.vocab_size}", param=path)


def _too_long(prompt_tokens: int, max_tokens: int, limits: Limits, param: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"{param}: {prompt_tokens} prompt tokens and {max_tokens} to generate are more than the context window of"
        f" {limits.max_model_len}",
        param=param,
        metadata={"prompt_tokens": str(prompt_tokens), "max_model_len": str(limits.max_model_len)},
    )
