"""What a worker counts, and tells on its own `metrics.port`. Only the event loop's thread may count and render."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qwenserve.runtime.counting import Counters, Histograms
from qwenserve.runtime.metrics import SECONDS, process_registry
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2

_WORKER = ["worker"]
_FINISHES = {number: name.removeprefix("FINISH_REASON_").lower() for name, number in sampling_pb2.FinishReason.items()}


class WorkerMetrics:
    """Counts of one worker; every series has its name."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.registry = process_registry()
        self._ends = Counters(
            "qwenserve_engine_requests", "Ended requests by finish reason or error.", ["worker", "reason"]
        )
        prompt = Counters("qwenserve_engine_prompt_tokens", "Prompt tokens given to the engine.", _WORKER)
        generated = Counters("qwenserve_engine_generated_tokens", "Generated tokens sent to routers.", _WORKER)
        queue = Histograms("qwenserve_engine_queue_seconds", "Time in this worker's queue.", SECONDS, _WORKER)
        for family in (self._ends, prompt, generated, queue):
            self.registry.register(family)
        self.prompt_tokens = prompt.labels(worker)
        self.generated_tokens = generated.labels(worker)
        self.queue = queue.labels(worker)

    def ended(self, finish: worker_pb2.Finish) -> None:
        """Counts the end of a request."""
        self._ends.labels(self.worker, finish.error_reason.lower() or _FINISHES[finish.reason]).inc()

    def watch(self, state: WorkerState) -> None:
        """Tells of a worker's state, read when somebody asks."""
        self.registry.register(_StateCollector(self.worker, state))


class WorkerState(Protocol):
    """What a worker's metrics read of its dispatcher."""

    @property
    def serving(self) -> bool:
        """Whether requests are taken."""

    @property
    def max_running(self) -> int:
        """Most requests computed at a time."""

    @property
    def open_sessions(self) -> int:
        """Routers that are connected."""

    def load_now(self) -> worker_pb2.Load:
        """Returns the load, without counting it as a stamp."""


class _StateCollector(Collector):
    def __init__(self, worker: str, state: WorkerState) -> None:
        self._labels = [worker]
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yields one family per number."""
        state, load = self._state, self._state.load_now()
        yield self._gauge("qwenserve_engine_serving", "1 while requests are taken.", float(state.serving))
        yield self._gauge("qwenserve_engine_running", "Requests being computed.", load.running)
        yield self._gauge("qwenserve_engine_max_running", "Most requests computed at a time.", state.max_running)
        yield self._gauge("qwenserve_engine_queued", "Requests waiting.", load.queued)
        yield self._gauge("qwenserve_engine_sessions", "Sessions that routers have open.", state.open_sessions)
        if load.total_kv_blocks > 0:
            yield self._gauge("qwenserve_engine_free_kv_blocks", "KV blocks not in use.", load.free_kv_blocks)
            yield self._gauge("qwenserve_engine_total_kv_blocks", "KV blocks in all.", load.total_kv_blocks)
        steps = CounterMetricFamily("qwenserve_engine_steps", "Steps of the engine.", labels=_WORKER)
        steps.add_metric(self._labels, load.steps)
        yield steps

    def _gauge(self, name: str, meaning: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, meaning, labels=_WORKER)
        family.add_metric(self._labels, value)
        return family
