"""A router's metrics about its workers and tokenizers, read at each scrape.

Every router reports every worker, from the load stamps that it receives anyway: with several routers take the maximum
over them, not the sum. What only the process itself knows (memory, CPU time, its own queue) is on its own
`metrics.port`.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qwenserve.router.clients.directory import WorkerDirectory
from qwenserve.router.clients.text_service import TextService

_WORKER = ["worker"]


class WorkerCollector(Collector):
    """Reads the last load stamp of every session at scrape time. Workers that have left are no longer told of."""

    def __init__(self, workers: WorkerDirectory) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Yields one family per number, one sample per worker."""
        ready = GaugeMetricFamily("qwenserve_worker_ready", "1 when a worker takes requests.", labels=_WORKER)
        running = GaugeMetricFamily("qwenserve_worker_running", "Requests a worker computes.", labels=_WORKER)
        room = GaugeMetricFamily("qwenserve_worker_max_running", "Most requests it computes at a time.", labels=_WORKER)
        queued = GaugeMetricFamily("qwenserve_worker_queued", "Requests a worker has waiting.", labels=_WORKER)
        pending = GaugeMetricFamily(
            "qwenserve_worker_pending_prompt_tokens", "Prompt tokens waiting or in prefill.", labels=_WORKER
        )
        free = GaugeMetricFamily("qwenserve_worker_free_kv_blocks", "KV blocks not in use.", labels=_WORKER)
        blocks = GaugeMetricFamily("qwenserve_worker_total_kv_blocks", "KV blocks in all.", labels=_WORKER)
        steps = CounterMetricFamily("qwenserve_worker_engine_steps", "Steps of its engine.", labels=_WORKER)
        connections = CounterMetricFamily(
            "qwenserve_worker_connections",
            "Sessions opened to a worker; each after the first followed a loss.",
            labels=_WORKER,
        )
        about = GaugeMetricFamily(
            "qwenserve_worker_info",
            "1; what it is stands in the labels.",
            labels=["worker", "engine", "engine_version", "model"],
        )
        for session in self._workers.sessions:
            labels, load, info = [session.name], session.load, session.info
            ready.add_metric(labels, float(session.ready))
            running.add_metric(labels, load.running)
            queued.add_metric(labels, load.queued)
            pending.add_metric(labels, load.pending_prompt_tokens)
            steps.add_metric(labels, load.steps)
            connections.add_metric(labels, session.connections)
            if load.total_kv_blocks > 0:
                free.add_metric(labels, load.free_kv_blocks)
                blocks.add_metric(labels, load.total_kv_blocks)
            if info is not None:
                room.add_metric(labels, info.max_running)
                about.add_metric([session.name, info.engine, info.engine_version, info.model], 1)
        yield from (ready, running, room, queued, pending, free, blocks, steps, connections, about)


class TokenizerCollector(Collector):
    """Tells of the tokenizer tier, as this router sees it; nothing where prompts are tokenized in the router."""

    def __init__(self, text: TextService) -> None:
        self._text = text

    def collect(self) -> Iterator[Metric]:
        """Yields one family per number, one sample per process."""
        losses = CounterMetricFamily(
            "qwenserve_tokenizer_losses", "Times that its stream broke or it fell silent.", labels=["tokenizer"]
        )
        waiting = GaugeMetricFamily(
            "qwenserve_tokenizer_waiting", "Prompts it has been sent and has not answered.", labels=["tokenizer"]
        )
        for process in self._text.processes():
            losses.add_metric([process.address], process.losses)
            waiting.add_metric([process.address], process.waiting)
        yield from (losses, waiting)
