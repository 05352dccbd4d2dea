"""The load stamp that travels on every message."""

from __future__ import annotations

from qwenserve.worker.admission import Admission
from qwenserve.worker.engine_interface import Engine
from qwenserve.worker.v1 import worker_pb2


class LoadMeter:
    """Makes load stamps. `prefill_tokens` is kept by whoever starts requests and sees their first token, and so is
    `expected_cached_tokens`, of those and of waiting prompts; `deliveries` by whoever takes the engine's results.
    """

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self.prefill_tokens = 0
        self.expected_cached_tokens = 0
        self.deliveries = 0
        self._engine = engine
        self._admission = admission
        self._sequence = 0

    @property
    def steps(self) -> int:
        """Steps of the engine so far: by its own count, or else its deliveries."""
        steps = self._engine.load().steps
        return steps if steps >= 0 else self.deliveries

    def stamp(self, read_handle: int = 0) -> worker_pb2.Load:
        """Returns the load now, with the next sequence number, for a session that has read up to `read_handle`."""
        self._sequence += 1
        return self.now(read_handle)

    def now(self, read_handle: int = 0) -> worker_pb2.Load:
        """Returns the load now, with the last stamp's number."""
        engine = self._engine.load()
        admission = self._admission
        return worker_pb2.Load(
            sequence=self._sequence,
            running=engine.running,
            # A request that has its slot here may still wait inside the engine, for KV blocks.
            queued=admission.queued + max(0, admission.running - engine.running),
            free_kv_blocks=engine.free_kv_blocks,
            total_kv_blocks=engine.total_kv_blocks,
            pending_prompt_tokens=admission.queued_prompt_tokens + self.prefill_tokens - self.expected_cached_tokens,
            read_handle=read_handle,
            steps=engine.steps if engine.steps >= 0 else self.deliveries,
        )
