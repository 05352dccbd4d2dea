"""What a request must fulfil at every engine that a library runs: what these make of nonsense is silent, late, or the
end of their process. Pure.
"""

from __future__ import annotations

from qwenserve.runtime.sampling_ranges import RANGES
from qwenserve.worker.engine_interface import EngineInfo, EngineRefusal, EngineRequest


def check_request_fits(request: EngineRequest, info: EngineInfo, *, guides_from_start: str = "") -> None:
    """Checks prompt, guide and sampling against what an engine says of itself. Raises EngineRefusal naming the field at
    fault.

    `guides_from_start` is the engine's name, where it follows guides from their beginning only.
    """
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
    if guides_from_start and request.guide is not None and request.guided_so_far:
        raise EngineRefusal(
            f"{guides_from_start} follows a guide from its beginning only; this answer has begun under it elsewhere",
            param="guide",
        )
    sampling = request.sampling
    for name, allowed in RANGES.items():
        value = getattr(sampling, name)
        if value is not None and not allowed.holds(value):
            raise EngineRefusal(f"{name} is {value}; it must be {allowed}", param=name)
    for name in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
        if any(not 0 <= token < info.vocab_size for token in getattr(sampling, name)):
            raise EngineRefusal(f"{name} names ids outside 0 to {info.vocab_size - 1}", param=name)
