"""Wire messages to engine values and back. Every refusal names the field at fault."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from qwenserve.runtime.errors import ContextLengthExceeded, InvalidRequest, ServiceError, Unsupported
from qwenserve.runtime.packed_ids import unpacked_ids
from qwenserve.runtime.sampling_ranges import (
    BIAS,
    MAX_ALLOWED_TOKEN_IDS,
    MAX_LOGIT_BIAS,
    MAX_TOP_LOGPROBS,
    NEUTRAL,
    PRIORITY,
    RANGES,
)
from qwenserve.type.v1 import guide_pb2, sampling_pb2, task_pb2
from qwenserve.worker.engine_interface import (
    EngineInfo,
    EngineRequest,
    Finish,
    Guide,
    GuideKind,
    Sampling,
)
from qwenserve.worker.v1 import worker_pb2

# What `Generate` uses where a caller set nothing: filters off, a short answer.
_COMPLETE = sampling_pb2.SamplingParams(**NEUTRAL, max_tokens=16)  # type: ignore[arg-type]

# An unset task is the one that every engine knows.
TASKS = frozenset({task_pb2.TASK_KIND_UNSPECIFIED, task_pb2.TASK_KIND_GENERATE})

_NO_IDS: frozenset[int] = frozenset()
_REQUIRED_RANGES = {name: RANGES[name] for name in (*NEUTRAL, "max_tokens") if name in RANGES}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request is checked against."""

    vocab_size: int
    max_model_len: int
    max_top_logprobs: int = MAX_TOP_LOGPROBS
    unsupported_fields: frozenset[str] = frozenset()
    guide_kinds: frozenset[GuideKind] = frozenset()
    eos_token_ids: frozenset[int] = frozenset()

    @classmethod
    def of(cls, info: EngineInfo) -> Limits:
        """Returns the limits of an engine."""
        return cls(
            info.vocab_size,
            info.max_model_len,
            info.max_top_logprobs,
            info.unsupported_fields,
            info.guide_kinds,
            info.eos_token_ids,
        )


def request_from(submit: worker_pb2.Submit, key: int, limits: Limits) -> EngineRequest:
    """Returns the engine's request, called `key`. Raises InvalidRequest, Unsupported or ContextLengthExceeded."""
    if submit.task not in TASKS:
        raise Unsupported(f"task: {task_pb2.TaskKind.Name(submit.task)} is nothing that this worker does", param="task")
    prompt = prompt_from(_unpacked(submit.prompt_token_ids), limits)
    sampling = sampling_from(submit.sampling, len(prompt), limits)
    if submit.cache_salt and "cache_salt" in limits.unsupported_fields:
        raise _unsupported("cache_salt")
    return EngineRequest(
        key,
        prompt,
        sampling,
        submit.cache_salt,
        _answer_offset(submit, len(prompt)),
        _priority(submit),
        _prompt_logprobs(submit, limits),
        _guide(submit.guide, limits) if submit.HasField("guide") else None,
        _guide_offset(submit, len(prompt)),
        submit.traceparent,
    )


def _unpacked(packed: bytes) -> Sequence[int]:
    try:
        return unpacked_ids(packed)
    except ValueError:
        raise InvalidRequest(
            f"prompt_token_ids: {len(packed)} bytes are no whole number of ids of four bytes", param="prompt_token_ids"
        ) from None


def prompt_from(token_ids: Sequence[int], limits: Limits) -> list[int]:
    """Returns a prompt's ids. Raises InvalidRequest or ContextLengthExceeded."""
    # Counted before they are converted: there may be millions.
    if not token_ids:
        raise InvalidRequest("prompt_token_ids: at least one id is needed", param="prompt_token_ids")
    if len(token_ids) >= limits.max_model_len:
        raise _too_long(len(token_ids), 1, limits, "prompt_token_ids")
    ids = list(token_ids)
    if min(ids) < 0 or max(ids) >= limits.vocab_size:
        index, bad = next((i, value) for i, value in enumerate(ids) if not 0 <= value < limits.vocab_size)
        raise _outside(f"prompt_token_ids[{index}]", bad, limits)
    return ids


def sampling_from(params: sampling_pb2.SamplingParams, prompt_tokens: int, limits: Limits) -> Sampling:
    """Returns checked sampling parameters; every field but `seed` and `top_logprobs` must be set.

    Raises InvalidRequest, Unsupported, or ContextLengthExceeded when prompt and `max_tokens` do not fit together.
    """
    for name, allowed in _REQUIRED_RANGES.items():
        if not params.HasField(name):
            raise InvalidRequest(f"sampling.{name}: must be set", param=f"sampling.{name}")
        value = getattr(params, name)
        if not allowed.holds(value):
            raise InvalidRequest(f"sampling.{name}: {value} is not {allowed}", param=f"sampling.{name}")
        if value != allowed.neutral and name in limits.unsupported_fields and allowed.neutral is not None:
            raise _unsupported(f"sampling.{name}")
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
    stops = _ids(params.stop_token_ids, "sampling.stop_token_ids", limits)
    return Sampling(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=params.seed if params.HasField("seed") or params.temperature == 0 else secrets.randbits(63),
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        logit_bias=_logit_bias(params, limits),
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        stop_token_ids=stops,
        ignore_eos=params.ignore_eos,
        top_logprobs=_top_logprobs(params, limits),
        allowed_token_ids=_allowed_token_ids(params, stops, limits) if params.allowed_token_ids else _NO_IDS,
    )


def with_neutral(params: sampling_pb2.SamplingParams) -> sampling_pb2.SamplingParams:
    """Returns `params` with the neutral value in every unset field."""
    complete = sampling_pb2.SamplingParams()
    complete.CopyFrom(_COMPLETE)
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
        retry_after_ms=int((error.retry_after_s or 0) * 1000) if error is not None else 0,
        queue_us=queue_us,
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
        if not BIAS.holds(value):
            raise InvalidRequest(
                f"sampling.logit_bias[{token}]: {value} is not {BIAS}", param=f"sampling.logit_bias[{token}]"
            )
    return bias


def _allowed_token_ids(params: sampling_pb2.SamplingParams, stops: frozenset[int], limits: Limits) -> frozenset[int]:
    path = "sampling.allowed_token_ids"
    if len(params.allowed_token_ids) > MAX_ALLOWED_TOKEN_IDS:
        raise InvalidRequest(
            f"{path}: {len(params.allowed_token_ids)} ids, {MAX_ALLOWED_TOKEN_IDS} at most", param=path
        )
    allowed = _ids(params.allowed_token_ids, path, limits)
    ends = stops if params.ignore_eos else stops | limits.eos_token_ids
    if params.min_tokens and allowed <= ends:
        raise InvalidRequest(
            f"{path}: only end and stop tokens, which min_tokens forbids; allow another id or leave min_tokens out",
            param=path,
        )
    return allowed


def _ids(token_ids: Sequence[int], path: str, limits: Limits) -> frozenset[int]:
    for index, token in enumerate(token_ids):
        if not 0 <= token < limits.vocab_size:
            raise _outside(f"{path}[{index}]", token, limits)
    return frozenset(token_ids)


def _top_logprobs(params: sampling_pb2.SamplingParams, limits: Limits) -> int | None:
    if not params.HasField("top_logprobs"):
        return None
    return _alternatives(params.top_logprobs, "sampling.top_logprobs", limits)


def _prompt_logprobs(submit: worker_pb2.Submit, limits: Limits) -> int | None:
    if not submit.HasField("prompt_logprobs"):
        return None
    if "prompt_logprobs" in limits.unsupported_fields:
        raise _unsupported("prompt_logprobs")
    return _alternatives(submit.prompt_logprobs, "prompt_logprobs", limits)


def _alternatives(count: int, path: str, limits: Limits) -> int:
    most = min(limits.max_top_logprobs, MAX_TOP_LOGPROBS)
    if not 0 <= count <= most:
        raise InvalidRequest(f"{path}: {count} is not in 0 to {most}", param=path)
    return count


def _answer_offset(submit: worker_pb2.Submit, prompt_tokens: int) -> int | None:
    if not submit.HasField("answer_offset"):
        return None
    if not 1 <= submit.answer_offset <= prompt_tokens:
        raise InvalidRequest(
            f"answer_offset: {submit.answer_offset} is not in 1 to {prompt_tokens}, the prompt's length",
            param="answer_offset",
        )
    return submit.answer_offset


def _guide_offset(submit: worker_pb2.Submit, prompt_tokens: int) -> int | None:
    if not submit.HasField("guide_offset"):
        return None
    least = submit.answer_offset if submit.HasField("answer_offset") else prompt_tokens
    if not least <= submit.guide_offset <= prompt_tokens:
        raise InvalidRequest(
            f"guide_offset: {submit.guide_offset} is not in {least} to {prompt_tokens}, from where the answer began to "
            "the prompt's length",
            param="guide_offset",
        )
    return submit.guide_offset


def _guide(guide: guide_pb2.Guide, limits: Limits) -> Guide:
    try:
        kind = GuideKind(guide.kind)
    except ValueError:
        raise InvalidRequest(f"guide.kind: {guide.kind} is no kind of guide", param="guide.kind") from None
    if kind not in limits.guide_kinds:
        known = ", ".join(sorted(known.name for known in limits.guide_kinds)) or "none"
        raise Unsupported(
            f"guide.kind: this worker's engine cannot follow {kind.name}; it knows {known}", param="guide.kind"
        )
    return Guide(kind, guide.text)


def _check_unsupported(params: sampling_pb2.SamplingParams, limits: Limits) -> None:
    asked: Sequence[tuple[str, bool]] = (
        ("seed", params.HasField("seed")),
        ("logit_bias", bool(params.logit_bias)),
        ("stop_token_ids", bool(params.stop_token_ids)),
        ("ignore_eos", params.ignore_eos),
        ("top_logprobs", params.HasField("top_logprobs")),
        ("allowed_token_ids", bool(params.allowed_token_ids)),
    )
    for name, is_set in asked:
        if is_set and name in limits.unsupported_fields:
            raise _unsupported(f"sampling.{name}")


def _priority(submit: worker_pb2.Submit) -> int:
    if not PRIORITY.holds(submit.priority):
        raise InvalidRequest(f"priority: {submit.priority} is not {PRIORITY}", param="priority")
    return submit.priority


def _unsupported(path: str) -> Unsupported:
    return Unsupported(f"{path}: this worker's engine cannot honour it", param=path)


def _outside(path: str, token: int, limits: Limits) -> InvalidRequest:
    return InvalidRequest(f"{path}: id {token} is outside the vocabulary of {limits.vocab_size}", param=path)


def _too_long(prompt_tokens: int, max_tokens: int, limits: Limits, param: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"{param}: {prompt_tokens} prompt tokens and {max_tokens} to generate are more than the context window of"
        f" {limits.max_model_len}",
        param=param,
        metadata={"prompt_tokens": str(prompt_tokens), "max_model_len": str(limits.max_model_len)},
    )
