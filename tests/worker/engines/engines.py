"""The embedded engine on the small random model, set up so that its results are exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwenserve.worker.engines.llamacpp.config import LlamaCppConfig
from qwenserve.worker.engines.llamacpp.engine import LlamaCppEngine

SLOTS = 8
# A copy of a slot's state is worth it from so many tokens on.
STEP_TOKENS = 64


def exact_engine(gguf: Path, **changes: Any) -> LlamaCppEngine:
    """Returns an engine with a float32 KV cache; `changes` are fields of `LlamaCppConfig`."""
    settings: dict[str, Any] = {
        "max_running": SLOTS,
        "max_model_len": 512,
        "threads": 1,
        "kv_type": "f32",
        "batch_tokens": STEP_TOKENS,
    }
    return LlamaCppEngine(LlamaCppConfig(gguf, **{**settings, **changes}))
