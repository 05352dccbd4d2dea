"""From a request to vLLM's sampling parameters. Pure: keyword arguments, whose class the engine holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from qwenserve.worker.engine_interface import EngineInfo, EngineRefusal, EngineRequest, Guide, GuideKind, Sampling
from qwenserve.worker.guides.choices import choices_of
from qwenserve.worker.request_checks import check_request_fits

# Sizes of vLLM's own tables; a request beyond them would end its core.
_MAX_BIASES = 1024
_MAX_ALLOWED = 1024
_MAX_STOPS = 128

# vLLM takes -1 for no seed at all. Any other number does, as long as it is always the same.
_MINUS_ONE = -0x5851F42D4C957F2D


class StructuredOutput(NamedTuple):
    """One keyword argument of vLLM's `StructuredOutputsParams`."""

    name: str
    value: Any


def check_request(request: EngineRequest, info: EngineInfo) -> None:
    """Raises EngineRefusal naming the field at fault: an id outside the vocabulary would end vLLM's core."""
    check_request_fits(request, info, guides_from_start="vLLM")
    sampling = request.sampling
    if len(sampling.allowed_token_ids) > _MAX_ALLOWED:
        raise EngineRefusal(f"allowed_token_ids: vLLM takes {_MAX_ALLOWED} at most", param="allowed_token_ids")
    if sampling.min_tokens and len(_ends(sampling, info)) > _MAX_STOPS:
        raise EngineRefusal(
            f"stop_token_ids: with min_tokens vLLM takes {_MAX_STOPS} at most, end tokens included",
            param="stop_token_ids",
        )


def sampling_arguments(request: EngineRequest, info: EngineInfo) -> dict[str, Any]:
    """Returns the arguments of `SamplingParams`, output kind and structured output apart. Raises EngineRefusal."""
    sampling = request.sampling
    bias = {**sampling.logit_bias}
    for token, penalty in _earlier_penalties(request).items():
        bias[token] = bias.get(token, 0.0) - penalty
    if len(bias) > _MAX_BIASES:
        raise EngineRefusal(
            f"presence_penalty and frequency_penalty: the part of the answer in the prompt has more than {_MAX_BIASES} "
            "different ids, too many for vLLM; leave the penalties out",
            param="presence_penalty" if sampling.presence_penalty else "frequency_penalty",
        )
    arguments: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": min(sampling.top_k, info.vocab_size),
        "min_p": sampling.min_p,
        "seed": _MINUS_ONE if sampling.seed == -1 else sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "max_tokens": sampling.max_tokens,
        # A guide that is complete leaves end tokens alone, which must then be allowed, and end the answer.
        "min_tokens": 0 if request.guide is not None else min(sampling.min_tokens, sampling.max_tokens),
        # End tokens are named here like all others, so that vLLM says which one it was.
        "stop_token_ids": sorted(_ends(sampling, info) | (info.eos_token_ids if request.guide else frozenset())),
        "ignore_eos": True,
        "logprobs": sampling.top_logprobs,
        "prompt_logprobs": request.prompt_logprobs,
        "detokenize": False,
        "skip_clone": True,
    }
    if bias:
        arguments["logit_bias"] = bias
    if sampling.allowed_token_ids:
        arguments["allowed_token_ids"] = sorted(sampling.allowed_token_ids)
    return arguments


def structured_output(guide: Guide) -> StructuredOutput:
    """Returns how vLLM is told of a guide. Raises EngineRefusal for a choice that is no list of texts."""
    if guide.kind is GuideKind.JSON_SCHEMA:
        return StructuredOutput("json", guide.text)
    if guide.kind is GuideKind.JSON_OBJECT:
        return StructuredOutput("json_object", True)
    if guide.kind is GuideKind.REGEX:
        return StructuredOutput("regex", guide.text)
    if guide.kind is GuideKind.GRAMMAR:
        return StructuredOutput("grammar", guide.text)
    return StructuredOutput("choice", choices_of(guide))


def _ends(sampling: Sampling, info: EngineInfo) -> frozenset[int]:
    return sampling.stop_token_ids if sampling.ignore_eos else sampling.stop_token_ids | info.eos_token_ids


def _earlier_penalties(request: EngineRequest) -> Mapping[int, float]:
    """Returns what ids of the answer's earlier part lose: vLLM counts only those that it generates itself."""
    sampling = request.sampling
    if not sampling.presence_penalty and not sampling.frequency_penalty:
        return {}
    earlier = Counter(request.prompt_token_ids[request.answer_start :])
    return {token: sampling.presence_penalty + sampling.frequency_penalty * count for token, count in earlier.items()}
