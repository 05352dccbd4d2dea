"""What a request must fulfil before llama.cpp sees it: its own answers to nonsense are silent or late."""

from __future__ import annotations

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
    for name, fine, wanted in (
        ("temperature", s.temperature >= 0, "0 or more"),
        ("top_p", 0 < s.top_p <= 1, "above 0, at most 1"),
        ("top_k", s.top_k >= 0, "0 or more"),
        ("min_p", 0 <= s.min_p <= 1, "0 to 1"),
        ("repetition_penalty", s.repetition_penalty > 0, "above 0"),
        ("max_tokens", s.max_tokens >= 1, "1 or more"),
        ("min_tokens", s.min_tokens >= 0, "0 or more"),
        ("top_logprobs", 0 <= (s.top_logprobs or 0) <= info.max_top_logprobs, f"0 to {info.max_top_logprobs}"),
    ):
        if not fine:  # NaN fails every comparison and ends here too
            raise EngineRefusal(f"{name} is {getattr(s, name)}; it must be {wanted}", param=name)
    if any(not 0 <= token < info.vocab_size for token in s.logit_bias):
        raise EngineRefusal(f"logit_bias names ids outside 0 to {info.vocab_size - 1}", param="logit_bias")
