"""Settings of the transformers engine, as the configuration file has them below `worker.transformers`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qwenserve.runtime.config import Section


class Settings(Section):
    """Hugging Face transformers: the oracle of correctness, with tensor parallelism over MPI ranks."""

    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Number format of weights and computing; float32 gives the exact ids."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where it computes. auto: on GPUs where there are any."
    )
    threads: int = Field(default=1, ge=1, le=1024, description="Compute threads of each process on a CPU.")
    prefill_tokens: int = Field(default=256, ge=1, description="Most tokens of a prompt computed in one step.")
    cached_tokens: int = Field(
        default=65_536, ge=0, description="Most tokens of ended requests kept for prompts that begin alike."
    )
