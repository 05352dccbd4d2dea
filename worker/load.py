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

    def stamp(self, load: worker_pb2.Load, read_handle: int = 0) -> None:
        """Writes the load of now, with the next sequence number, for a session that has read up to `read_handle`."""
        self._sequence += 1
        self._write(load)
        load.read_handle = read_handle

    def now(self) -> worker_pb2.Load:
        """Returns the load now, with the last stamp's number."""
        load = worker_pb2.Load()
        self._write(load)
        return load

    def _write(self, load: worker_pb2.Load) -> None:
        # With each message: several times as fast as making a message and copying it.
        running, load.free_kv_blocks, load.total_kv_blocks, steps = self._engine.load()
        admission = self._admission
        load.sequence = self._sequence
        load.running = running
        # A request that has its slot here may still wait inside the engine, for KV blocks.
        load.queued = admission.queued + max(0, admission.running - running)
        waiting = admission.queued_prompt_tokens + self.prefill_tokens - self.expected_cached_tokens
        load.pending_prompt_tokens = waiting
        load.steps = steps if steps >= 0 else self.deliveries
