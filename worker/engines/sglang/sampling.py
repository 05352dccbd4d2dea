"""From a request to SGLang's sampling parameters. Pure: a dictionary, whose class the engine holds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qwenserve.worker.engine_interface import (
    EngineInfo,
    EngineRefusal,
    EngineRequest,
    Guide,
    GuideKind,
    Sampling,
)
from qwenserve.worker.guides.choices import choices_of
from qwenserve.worker.request_checks import check_request_fits

# SGLang has no list of allowed ids. Lifted by this much they are above all others, whose share is then 0 in float32,
# and what lies between them is kept to 0.00003.
_LIFT = 400.0


def check_request(request: EngineRequest, info: EngineInfo) -> None:
    """Raises EngineRefusal naming the field at fault."""
    check_request_fits(request, info, guides_from_start="SGLang")
    sampling = request.sampling
    if sampling.min_tokens and "min_tokens" in info.unsupported_fields:
        raise EngineRefusal("SGLang needs its tokenizer for min_tokens: worker.sglang.guides", param="min_tokens")
    if sampling.min_p and "min_p" in info.unsupported_fields:
        raise EngineRefusal(
            "SGLang has no min_p where seeds count; leave min_p out, or worker.sglang.options without "
            "enable_deterministic_inference",
            param="min_p",
        )


def sampling_arguments(request: EngineRequest, info: EngineInfo) -> dict[str, Any]:
    """Returns SGLang's sampling parameters. Raises EngineRefusal."""
    sampling = request.sampling
    most = min(sampling.max_tokens, info.max_model_len - len(request.prompt_token_ids))
    arguments: dict[str, Any] = {
        "max_new_tokens": most,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "stop_token_ids": sorted(sampling.stop_token_ids | info.eos_token_ids),
        # It ignores stop tokens then, too: whoever reads the answer looks for them.
        "ignore_eos": sampling.ignore_eos,
    }
    if sampling.ignore_eos:
        arguments["stop_token_ids"] = sorted(sampling.stop_token_ids)
    if request.guide is not None:
        # A guide that is complete leaves end tokens alone, which must then be allowed, and end the answer.
        arguments |= {"ignore_eos": False, **guide_argument(request.guide)}
        arguments["stop_token_ids"] = sorted(sampling.stop_token_ids | info.eos_token_ids)
    elif sampling.min_tokens:
        arguments["min_new_tokens"] = min(sampling.min_tokens, most)
    if "seed" not in info.unsupported_fields:
        arguments["sampling_seed"] = sampling.seed
    if bias := _bias(request):
        arguments["logit_bias"] = {str(token): value for token, value in bias.items()}
    return arguments


def guide_argument(guide: Guide) -> dict[str, str]:
    """Returns the sampling parameter of a guide. Raises EngineRefusal for a choice that is no list of texts."""
    if guide.kind is GuideKind.JSON_SCHEMA:
        return {"json_schema": guide.text}
    if guide.kind is GuideKind.JSON_OBJECT:
        return {"json_schema": '{"type":"object"}'}
    if guide.kind is GuideKind.REGEX:
        return {"regex": guide.text}
    if guide.kind is GuideKind.GRAMMAR:
        return {"ebnf": guide.text}
    return {"regex": "|".join(map(re.escape, choices_of(guide)))}


def _bias(request: EngineRequest) -> dict[int, float]:
    sampling = request.sampling
    bias = {**sampling.logit_bias}
    for token, penalty in _earlier_penalties(sampling, request.prompt_token_ids[request.answer_start :]).items():
        bias[token] = bias.get(token, 0.0) - penalty
    for token in sampling.allowed_token_ids:
        bias[token] = bias.get(token, 0.0) + _LIFT
    return bias


def _earlier_penalties(sampling: Sampling, earlier: Sequence[int]) -> Mapping[int, float]:
    """Returns what ids of the answer's earlier part lose: SGLang counts only those that it generates itself."""
    if not sampling.presence_penalty and not sampling.frequency_penalty:
        return {}
    return {
        token: sampling.presence_penalty + sampling.frequency_penalty * count
        for token, count in Counter(earlier).items()
    }
