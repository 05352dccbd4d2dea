"""The embedded engine: llama.cpp in this process, through xllamacpp. GGUF files, no torch."""

from __future__ import annotations

from worker.engines.llamacpp.config import LlamaCppConfig, llamacpp_environment
from worker.engines.llamacpp.engine import LlamaCppEngine

__all__ = ["LlamaCppConfig", "LlamaCppEngine", "llamacpp_environment"]
