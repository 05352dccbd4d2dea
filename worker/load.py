"""The load stamp that travels on every message."""

from __future__ import annotations

from qwenserve.worker.admission import Admission
from qwenserve.worker.engine_interface import Engine
from qwenserve.worker.v1 import worker_pb2


class LoadMeter:
    """Makes load stamps. `prefill_tokens` is kept by whoever starts requests and sees their first token."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self.prefill_tokens = 0
        self._engine = engine
        self._admission = admission
        self._sequence = 0

    def stamp(self) -> worker_pb2.Load:
        """Returns the load now, with the next sequence number."""
        engine = self._engine.load()
        admission = self._admission
        self._sequence += 1
        return worker_pb2.Load(
            sequence=self._sequence,
            running=engine.running,
            # An engine may hold a request back that has its slot here: it waits for KV blocks.
            queued=admission.queued + max(0, admission.running - engine.running),
            free_kv_blocks=engine.free_kv_blocks,
            total_kv_blocks=engine.total_kv_blocks,
            pending_prompt_tokens=admission.queued_prompt_tokens + self.prefill_tokens,
        )
