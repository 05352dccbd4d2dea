"""Settings of the TensorRT-LLM engine, as the configuration file has them below `worker.trtllm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from qwenserve.runtime.config import Section


class Settings(Section):
    """TensorRT-LLM."""

    options: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Arguments of TensorRT-LLM's LLM by their own names, such as tensor_parallel_size: 4 or "
        "kv_cache_config: {dtype: fp8}. Older names are translated, and the log says into what.",
    )
    guides: bool = Field(
        default=True,
        description="Load the tokenizer inside the engine too: guides (JSON schemas and the like) need it.",
    )
    tokenizer: str = Field(
        default="", description="Hugging Face directory of the model, where model.reference is a built engine."
    )
    start_timeout_s: float = Field(
        default=3600.0, gt=0, description="Longest time to load the model; the process ends when it is over."
    )
    stop_timeout_s: float = Field(
        default=60.0, gt=0, description="Longest time to shut down; the process ends when it is over."
    )
