"""Settings of the SGLang engine, as the configuration file has them below `worker.sglang`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from qwenserve.runtime.config import Section


class Settings(Section):
    """SGLang, in process."""

    options: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Arguments of SGLang's ServerArgs by their own names, such as tp_size: 2. With "
        "enable_deterministic_inference: true the seeds of requests count; SGLang ignores them otherwise.",
    )
    guides: bool = Field(
        default=True,
        description="Load the tokenizer inside SGLang too: guides (JSON schemas and the like) and min_tokens need it.",
    )
    moe_kernels: str = Field(
        default="", description="Folder of tuned kernel settings for mixtures of experts. Empty: SGLang's own."
    )
    start_timeout_s: float = Field(default=1800.0, gt=0, description="Longest time to load the model.")
