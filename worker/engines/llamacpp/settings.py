"""Settings of the embedded engine, as the configuration file has them below `worker.llamacpp`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwenserve.runtime.config import Section


class Settings(Section):
    """The embedded engine."""

    threads: int = Field(default=0, ge=0, description="Compute threads. 0: as many as cores.")
    kv_type: Literal["f16", "f32"] = Field(default="f16", description="Number format of the KV cache; f32 is exact.")
    batch_tokens: int = Field(
        default=128,
        ge=32,
        description="Most tokens computed in one step. Small, so that answers move while a long prompt is read.",
    )
    prefix_memory_mib: int = Field(
        default=512,
        ge=0,
        description="Memory for beginnings of prompts that are in no free slot, in MiB, taken as it fills; on Linux. "
        "An eighth of the free memory is the limit too. 0: none are kept.",
    )
