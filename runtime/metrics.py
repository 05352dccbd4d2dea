"""Prometheus metrics of a process. One registry per process, handed down; nothing registers globally."""

from __future__ import annotations

import os
from collections.abc import Sequence

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from qwenserve.runtime.counting import Count, Counters, Distribution, Histograms, RecentCounters
from qwenserve.runtime.release import release

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
# From a text found in the cache to a long wait in a queue.
STAGE_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0)
_TOKENS = tuple(float(4**power) for power in range(10))


def process_registry() -> CollectorRegistry:
    """Returns a registry that tells of this process: CPU, memory, open files, version."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    build = Gauge("qwenserve_build_info", "1; the version is a label.", ["version"], registry=registry)
    build.labels(release()).set(1)
    process = Gauge(
        "qwenserve_process_id",
        "Number of the process on its host. Processes that share a port, and may have started in the same hundredth of "
        "a second, are told apart by it.",
        registry=registry,
    )
    process.set(os.getpid())
    return registry


class RouterMetrics:
    """What a router counts. Only the event loop's thread may count and render."""

    def __init__(self) -> None:
        self.registry = process_registry()
        self.requests = self.counters(
            "qwenserve_requests", "Finished answers by kind and outcome.", ["kind", "outcome"]
        )
        last = ("qwenserve_last_error_timestamp_seconds", "When a request last failed, by reason.")
        self.errors = RecentCounters("qwenserve_errors", "Failed requests by reason.", last, ["reason"])
        self.registry.register(self.errors)
        self.prompt_tokens = self._count("qwenserve_prompt_tokens", "Prompt tokens.")
        self.cached_tokens = self._count("qwenserve_cached_tokens", "Prompt tokens found in an engine's cache.")
        self.completion_tokens = self._count("qwenserve_completion_tokens", "Generated tokens.")
        self.reasoning_tokens = self._count("qwenserve_reasoning_tokens", "Generated tokens that belong to reasoning.")
        self.broken_tool_calls = self._count(
            "qwenserve_broken_tool_calls", "Tool calls that did not parse and stayed content."
        )
        self.continued_legs = self._count(
            "qwenserve_continued_legs", "Times that an answer went on with another worker, after a loss or a drain."
        )
        self.continuation_pause = self._times(
            "qwenserve_continuation_pause_seconds", "From an answer's break to its next token, where it went on."
        )
        self.first_token = self._times("qwenserve_time_to_first_token_seconds", "From arrival to the first token.")
        self.token_gap = self._times("qwenserve_inter_token_seconds", "Mean gap between tokens of an answer.")
        self.duration = self._times("qwenserve_request_seconds", "From arrival to the end.")
        self.prompt_length = self._sizes("qwenserve_request_prompt_tokens", "Prompt tokens of an answered request.")
        self.answer_length = self._sizes("qwenserve_request_completion_tokens", "Generated tokens of a request.")
        self.finishes = self.counters(
            "qwenserve_finished_choices", "Choices that came to their end, by finish reason.", ["reason"]
        )
        self.stage = Histograms("qwenserve_stage_seconds", "Time in one stage of a request.", STAGE_SECONDS, ["stage"])
        self.registry.register(self.stage)
        self.token_cache = Gauge(
            "qwenserve_token_cache_bytes",
            "What known texts and their token ids occupy; router.token_cache_bytes is the bound.",
            registry=self.registry,
        )
        self.waiting = Gauge(
            "qwenserve_waiting_continuations", "Answers that wait for a worker to go on.", registry=self.registry
        )
        self.ready = Gauge("qwenserve_ready", "1 when a request would be answered now.", registry=self.registry)
        self.running = Gauge("qwenserve_running_requests", "Requests under way in this router.", registry=self.registry)

    def counters(self, name: str, meaning: str, labels: Sequence[str]) -> Counters:
        """Returns new registered counters, one for each set of label values."""
        family = Counters(name, meaning, labels)
        self.registry.register(family)
        return family

    def render(self) -> tuple[bytes, str]:
        """Returns the exposition text and its content type."""
        return prometheus_client.generate_latest(self.registry), prometheus_client.CONTENT_TYPE_LATEST

    def _count(self, name: str, meaning: str) -> Count:
        return self.counters(name, meaning, ()).labels()

    def _times(self, name: str, meaning: str) -> Distribution:
        return self._distribution(name, meaning, SECONDS)

    def _sizes(self, name: str, meaning: str) -> Distribution:
        return self._distribution(name, meaning, _TOKENS)

    def _distribution(self, name: str, meaning: str, bounds: Sequence[float]) -> Distribution:
        family = Histograms(name, meaning, bounds)
        self.registry.register(family)
        return family.labels()
