"""Settings of the simulated engine, as the configuration file has them below `worker.simulated`."""

from __future__ import annotations

from pydantic import Field

from qwenserve.runtime.config import Section


class Settings(Section):
    """The simulated engine: a timing model, for benchmarks and drills."""

    prefill_tokens_per_s: float = Field(
        default=20_000.0, gt=0, description="Speed of computing uncached prompt tokens."
    )
    prefill_chunk_tokens: int = Field(
        default=512, ge=1, description="Most uncached prompt tokens computed in one step, all requests' together."
    )
    step_ms: float = Field(default=10.0, ge=0, description="Time of one decode step at batch 1. 0: as fast as it can.")
    step_ms_per_request: float = Field(
        default=0.0, ge=0, description="Added step time for every further request in the batch."
    )
    kv_blocks: int = Field(default=8192, ge=1, description="Number of KV blocks.")
    kv_block_tokens: int = Field(default=16, ge=1, description="Tokens per KV block.")
    answer: str = Field(default="cycle", description="What is generated: cycle, echo, or comma-separated token ids.")
    fault: str = Field(
        default="",
        description="Fault to show: die:N, stall:N, refuse:N (after N steps or requests), slow:FACTOR, or none.",
    )
    load_s: float = Field(default=0.0, ge=0, le=600, description="How long ranks other than rank 0 take to load.")
