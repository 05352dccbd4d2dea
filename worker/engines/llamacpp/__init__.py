"""The embedded engine: llama.cpp in this process, through xllamacpp. GGUF files, no torch."""

from __future__ import annotations

from qwenserve.worker.engines.llamacpp.config import LlamaCppConfig, llamacpp_environment
from qwenserve.worker.engines.llamacpp.engine import LlamaCppEngine

__all__ = ["LlamaCppConfig", "LlamaCppEngine", "llamacpp_environment"]
