"""Checks a request's sampling parameters and fills in what it left unset. Pure."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from itertools import repeat

from qwenserve.router.chat.call import too_much_to_log
from qwenserve.runtime.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from qwenserve.runtime.sampling_ranges import (
    BIAS,
    MAX_ALLOWED_TOKEN_IDS,
    MAX_CACHE_SALT,
    MAX_CHOICES,
    MAX_LOGIT_BIAS,
    MAX_SESSION,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    NEUTRAL,
    PRIORITY,
    RANGES,
    choice_seed,
)
from qwenserve.type.v1 import sampling_pb2

# Token ids that are read in one request, over all of its prompts.
MAX_IDS = 1 << 20
# Characters that are tokenized for one request.
MAX_CHARACTERS = 1 << 23

# Never treated as unsupported, whatever an engine declares: nothing can be generated without them.
_INDISPENSABLE = frozenset({"max_tokens"})


def check_sampling(sampling: sampling_pb2.SamplingParams, vocab_size: int) -> set[str]:
    """Returns the names of the fields that are set. Raises InvalidRequest naming the first one out of range."""
    # Few of the fields are set in most requests: only those are looked at.
    names = set()
    for field, value in sampling.ListFields():
        name = field.name
        names.add(name)
        allowed = RANGES.get(name)
        if allowed is not None:
            if not allowed.holds(value):
                raise InvalidRequest(f"{name} must be {allowed}, got {value:g}", param=name)
        elif name == "logit_bias":
            _check_bias(value, vocab_size)
        elif name == "stop_token_ids":
            if len(value) > MAX_STOP_TOKEN_IDS:
                raise InvalidRequest(
                    f"stop_token_ids has {len(value)} ids; at most {MAX_STOP_TOKEN_IDS} are allowed", param=name
                )
            _check_ids(value, vocab_size, name)
        elif name == "allowed_token_ids":
            if len(value) > MAX_ALLOWED_TOKEN_IDS:
                raise InvalidRequest(
                    f"{name} has {len(value)} ids; at most {MAX_ALLOWED_TOKEN_IDS} are allowed", param=name
                )
            _check_ids(value, vocab_size, name)
    return names


def check_top(count: int, param: str) -> None:
    """Raises InvalidRequest for a number of alternatives out of range."""
    allowed = RANGES["top_logprobs"]
    if not allowed.holds(count):
        raise InvalidRequest(f"{param} must be {allowed}, got {count}", param=param)


def check_ids_in_all(batches: Sequence[Sequence[int]], param: str) -> None:
    """Raises InvalidRequest for more ids than one request may have. Only their number is checked."""
    count = sum(map(len, batches))
    if count > MAX_IDS:
        raise InvalidRequest(f"{param}: {count:,} token ids; at most {MAX_IDS:,} in one request", param=param)


def check_characters(texts: Sequence[str], param: str) -> None:
    """Raises InvalidRequest for longer texts than one request may have."""
    count = sum(map(len, texts))
    if count > MAX_CHARACTERS:
        raise InvalidRequest(f"{param}: {count:,} characters; at most {MAX_CHARACTERS:,} in one request", param=param)


def check_prompt_length(prompt_tokens: int, window: int, param: str) -> None:
    """Raises ContextLengthExceeded where a prompt leaves no room for one token. `window` 0: unknown."""
    if window and prompt_tokens >= window:
        raise ContextLengthExceeded(
            f"this model's context window is {window} tokens, and the prompt has {prompt_tokens}; "
            f"shorten it to {window - 1} tokens or fewer",
            param=param,
            metadata={"max_model_len": str(window), "prompt_tokens": str(prompt_tokens)},
        )


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
    if stop_strings and "" in stop_strings:
        raise InvalidRequest("stop must not contain an empty string", param="stop")


def check_priority(priority: int) -> None:
    """Raises InvalidRequest for a priority out of range: without a range, any client could always be served first."""
    if not PRIORITY.holds(priority):
        raise InvalidRequest(f"priority must be {PRIORITY}, got {priority}", param="priority")


def check_cache_salt(cache_salt: str) -> None:
    """Raises InvalidRequest for one that is too long."""
    if len(cache_salt) > MAX_CACHE_SALT:
        raise InvalidRequest(
            f"cache_salt has {len(cache_salt)} characters; at most {MAX_CACHE_SALT}", param="cache_salt"
        )


def check_session(session: str) -> None:
    """Raises InvalidRequest for one that is too long."""
    if len(session) > MAX_SESSION:
        raise InvalidRequest(f"session has {len(session)} characters; at most {MAX_SESSION}", param="session")


def check_labels(user: str, labels: Mapping[str, str]) -> None:
    """Raises InvalidRequest for more than a log event may hold."""
    if param := too_much_to_log(user, labels):
        raise InvalidRequest(
            f"{param} is too long: user has 512 characters at most, metadata 16 labels of 64 with values of 512",
            param=param,
        )


def complete(asked: sampling_pb2.SamplingParams, defaults: sampling_pb2.SamplingParams) -> sampling_pb2.SamplingParams:
    """Returns the parameters with `defaults` filled in; `defaults` has a value for every name of NEUTRAL."""
    full = sampling_pb2.SamplingParams()
    full.CopyFrom(defaults)
    full.MergeFrom(asked)
    return full


def filled_fields(asked: sampling_pb2.SamplingParams) -> list[str]:
    """Returns the names of the fields that `complete` fills."""
    return [name for name in NEUTRAL if not asked.HasField(name)]


def fit_window(
    sampling: sampling_pb2.SamplingParams, prompt_tokens: int, window: int, default_max: int, param: str = "messages"
) -> bool:
    """Sets `max_tokens` to what the window leaves, where unset or larger. Returns whether an asked value shrank.

    Raises ContextLengthExceeded, for the field `param`, where not even one token fits.
    """
    check_prompt_length(prompt_tokens, window, param)
    room = window - prompt_tokens
    asked = sampling.max_tokens
    limit = sampling.max_tokens = min(asked or default_max or room, room)
    if (least := sampling.min_tokens) > limit:
        raise InvalidRequest(f"min_tokens ({least}) is above max_tokens ({limit})", param="min_tokens")
    return asked > room


def seeds(asked: sampling_pb2.SamplingParams, count: int) -> Sequence[int | None]:
    """One seed per choice: derived from the request's, or fresh; 64 bits with a sign. `asked` is complete. None where
    nothing is drawn.
    """
    if asked.HasField("seed"):
        return [choice_seed(asked.seed, index) for index in range(count)]
    if asked.temperature == 0:
        return [None] * count
    return list(map(random.getrandbits, repeat(63, count)))


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
        if not BIAS.holds(bias):
            raise InvalidRequest(f"logit_bias must be {BIAS}, got {bias:g} for {token_id}", param="logit_bias")


def _check_ids(token_ids: Sequence[int], vocab_size: int, param: str) -> None:
    for token_id in token_ids:
        _check_id(token_id, vocab_size, param)


def _check_id(token_id: int, vocab_size: int, param: str) -> None:
    if not 0 <= token_id < vocab_size:
        raise InvalidRequest(
            f"{param}: token id {token_id} is outside the vocabulary (0 to {vocab_size - 1})", param=param
        )
