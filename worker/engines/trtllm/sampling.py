"""From a request to TensorRT-LLM's sampling parameters. Pure: keyword arguments, whose class the engine holds."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from qwenserve.worker.engine_interface import EngineInfo, EngineRefusal, EngineRequest, Guide, GuideKind, Sampling
from qwenserve.worker.guides.choices import choices_of
from qwenserve.worker.request_checks import check_request_fits

# Far below any logit, and a number in every format: an infinity would make NaN of a bias.
_NEVER = -1e9
_SEEDS = 2**64

# What the sampler named `TorchSampler` of 1.2 ignores without a word.
IGNORED_BY_TORCH_SAMPLER = frozenset({"repetition_penalty", "presence_penalty", "frequency_penalty", "min_p", "seed"})


def check_request(request: EngineRequest, info: EngineInfo) -> None:
    """Raises EngineRefusal naming the field at fault."""
    check_request_fits(request, info, guides_from_start="TensorRT-LLM")
    if request.prompt_logprobs is not None:
        raise EngineRefusal("this engine has no log-probabilities of prompts", param="prompt_logprobs")


def sampling_arguments(request: EngineRequest, info: EngineInfo, fields: Collection[str]) -> dict[str, Any]:
    """Returns the arguments of `SamplingParams`, whose names are `fields`, bias and guide apart."""
    sampling = request.sampling
    ends = info.eos_token_ids
    end = min(ends)
    stops = sampling.stop_token_ids if sampling.ignore_eos else sampling.stop_token_ids | ends
    # Only its own end token is held back before min_tokens. In all other requests end tokens are stop tokens like
    # others, for which alone it says which one came.
    held_back = bool(sampling.min_tokens) and not sampling.ignore_eos
    room = info.max_model_len - len(request.prompt_token_ids)
    arguments: dict[str, Any] = {
        "end_id": end,
        "pad_id": end,
        "ignore_eos": not held_back,
        "stop_token_ids": sorted(stops - {end} if held_back else stops) or None,
        "include_stop_str_in_output": True,
        "max_tokens": min(sampling.max_tokens, room),
        "min_tokens": min(sampling.min_tokens, sampling.max_tokens) or None,
        "seed": sampling.seed % _SEEDS,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "prompt_ignore_length": request.answer_start,
        # 0 would be none at all.
        "logprobs": None if sampling.top_logprobs is None else max(1, sampling.top_logprobs),
        "detokenize": False,
        **_randomness(sampling),
    }
    return {key: value for key, value in arguments.items() if key in fields}


def bias_of(sampling: Sampling, vocab_size: int) -> list[float] | None:
    """Returns what is added to each logit; None where nothing is."""
    if not sampling.logit_bias and not sampling.allowed_token_ids:
        return None
    bias = [_NEVER if sampling.allowed_token_ids else 0.0] * vocab_size
    for token in sampling.allowed_token_ids:
        bias[token] = 0.0
    for token, value in sampling.logit_bias.items():
        bias[token] += value
    return bias


def guide_arguments(guide: Guide) -> dict[str, Any]:
    """Returns the argument of `GuidedDecodingParams`. Raises EngineRefusal for a choice that is no list of texts."""
    if guide.kind is GuideKind.JSON_SCHEMA:
        return {"json": guide.text}
    if guide.kind is GuideKind.JSON_OBJECT:
        return {"json_object": True}
    if guide.kind is GuideKind.REGEX:
        return {"regex": guide.text}
    if guide.kind is GuideKind.GRAMMAR:
        return {"grammar": guide.text}
    return {"regex": "|".join(map(re.escape, choices_of(guide)))}


def _randomness(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"top_k": 1, "temperature": 1.0}
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p or None,
    }
