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
    _check_sampling(request.sampling, info)


def _check_sampling(s: Sampling, info: EngineInfo) -> None:
    for name, allowed in RANGES.items():
        value = getattr(s, name)
        if value is not None and not allowed.holds(value):
            raise EngineRefusal(f"{name} is {value}; it must be {allowed}", param=name)
    if any(not 0 <= token < info.vocab_size for token in s.logit_bias):
        raise EngineRefusal(f"logit_bias names ids outside 0 to {info.vocab_size - 1}", param="logit_bias")
