"""What a request must fulfil before llama.cpp sees it: its own answers to nonsense are silent or late."""

from __future__ import annotations

from qwenserve.runtime.sampling_ranges import RANGES
from qwenserve.worker.engine_interface import EngineInfo, EngineRefusal, EngineRequest, Sampling


def check_request(request: EngineRequest, info: EngineInfo) -> None:
    """Raises EngineRefusal naming the field at fault."""
    prompt = request.prompt_token_ids
    if not prompt:
        raise EngineRefusal("the prompt has no tokens", param="prompt_token_ids")
    if len(prompt) >= info.max_model_len:
        raise EngineRefusal(
            f"the prompt has {len(prompt)} tokens; with at least one to answer, {info.max_model_len} is the limit",
            param="prompt_token_ids",
        )
    if min(prompt) < 0 or max(prompt) >= info.vocab_size:
        raise EngineRefusal(f"the prompt has ids outside 0 to {info.vocab_size - 1}", param="prompt_token_ids")
    if request.guide is not None and request.guide.kind not in info.guide_kinds:
        raise EngineRefusal(f"this engine cannot follow {request.guide.kind.name}", param="guide")
    _check_sampling(request.sampling, info)


def _check_sampling(s: Sampling, info: EngineInfo) -> None:
    for name, allowed in RANGES.items():
        value = getattr(s, name)
        if value is not None and not allowed.holds(value):
            raise EngineRefusal(f"{name} is {value}; it must be {allowed}", param=name)
    for name in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
        if any(not 0 <= token < info.vocab_size for token in getattr(s, name)):
            raise EngineRefusal(f"{name} names ids outside 0 to {info.vocab_size - 1}", param=name)
    if s.allowed_token_ids and s.repetition_penalty != 1:
        raise EngineRefusal(
            "allowed_token_ids cannot be had with a repetition_penalty in this engine; send repetition_penalty 1",
            param="allowed_token_ids",
        )
