"""Settings of the vLLM engine, as the configuration file has them below `worker.vllm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from qwenserve.runtime.config import Section


class Settings(Section):
    """vLLM, in process."""

    options: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Arguments of vLLM's AsyncEngineArgs by their own names, such as tensor_parallel_size: 2.",
    )
    guides: bool = Field(
        default=True, description="Load the tokenizer inside vLLM too: guides (JSON schemas and the like) need it."
    )
    kv_events: bool = Field(default=True, description="Tell routers which prompt prefixes are in the KV cache.")
    read_core: bool = Field(
        default=True,
        description="Read the steps of vLLM's core directly where its version is known: less processor time than "
        "through AsyncLLM. Not with otlp_traces_endpoint among the options: only AsyncLLM writes vLLM's spans.",
    )
    moe_kernels: str = Field(
        default="", description="Folder of tuned kernel settings for mixtures of experts. Empty: vLLM's own."
    )
    start_timeout_s: float = Field(default=1800.0, gt=0, description="Longest time to load the model.")
