"""A router's metrics about its workers, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from qwenserve.router.clients.directory import WorkerDirectory


class WorkerCollector(Collector):
    """Reads the last load stamp of every session at scrape time."""

    def __init__(self, workers: WorkerDirectory) -> None:
        self._workers = workers

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields one family per number, one sample per worker."""
        ready = GaugeMetricFamily("qwenserve_worker_ready", "1 when a worker takes requests.", labels=["worker"])
        running = GaugeMetricFamily("qwenserve_worker_running", "Requests a worker computes.", labels=["worker"])
        queued = GaugeMetricFamily("qwenserve_worker_queued", "Requests a worker has waiting.", labels=["worker"])
        free = GaugeMetricFamily("qwenserve_worker_free_kv_blocks", "KV blocks not in use.", labels=["worker"])
        for session in self._workers.sessions:
            labels = [session.name]
            ready.add_metric(labels, float(session.ready))
            running.add_metric(labels, session.load.running)
            queued.add_metric(labels, session.load.queued)
            if session.load.total_kv_blocks > 0:
                free.add_metric(labels, session.load.free_kv_blocks)
        yield from (ready, running, queued, free)
