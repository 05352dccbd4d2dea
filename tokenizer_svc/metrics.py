"""What a tokenizer process counts, and tells on its own `metrics.port`."""

from __future__ import annotations

from qwenserve.runtime.counting import Count, Counters, Histograms
from qwenserve.runtime.metrics import STAGE_SECONDS, process_registry


class TokenizerMetrics:
    """Prompts of routers. Only the event loop's thread may count and render."""

    def __init__(self) -> None:
        self.registry = process_registry()
        self.prompts = Counters("qwenserve_tokenizer_prompts", "Answered prompts by outcome.", ["outcome"])
        tokens = Counters("qwenserve_tokenizer_tokens", "Token ids made of prompts.")
        seconds = Histograms(
            "qwenserve_tokenizer_prompt_seconds", "From a prompt's arrival to its answer.", STAGE_SECONDS
        )
        for family in (self.prompts, tokens, seconds):
            self.registry.register(family)
        self.tokens: Count = tokens.labels()
        self.seconds = seconds.labels()
