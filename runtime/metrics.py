"""Prometheus metrics of a process. One registry per process, handed down; nothing registers globally.

A counter's `inc` costs about half a microsecond, which is real money per token: hot paths add up plain integers
and publish them per engine step or per answer.
"""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_STAGE_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)


class RouterMetrics:
    """What a router counts."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "qwenserve_requests",
            "Finished answers by kind and outcome.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.errors = Counter("qwenserve_errors", "Failed requests by reason.", ["reason"], registry=registry)
        self.prompt_tokens = Counter("qwenserve_prompt_tokens", "Prompt tokens.", registry=registry)
        self.cached_tokens = Counter(
            "qwenserve_cached_tokens", "Prompt tokens found in an engine's cache.", registry=registry
        )
        self.completion_tokens = Counter("qwenserve_completion_tokens", "Generated tokens.", registry=registry)
        self.reasoning_tokens = Counter(
            "qwenserve_reasoning_tokens", "Generated tokens that belong to reasoning.", registry=registry
        )
        self.broken_tool_calls = Counter(
            "qwenserve_broken_tool_calls", "Tool calls that did not parse and stayed content.", registry=registry
        )
        self.first_token = Histogram(
            "qwenserve_time_to_first_token_seconds",
            "From arrival to the first token.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.token_gap = Histogram(
            "qwenserve_inter_token_seconds",
            "Mean gap between tokens of an answer.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.duration = Histogram(
            "qwenserve_request_seconds", "From arrival to the end.", registry=registry, buckets=_SECONDS
        )
        self.stage = Histogram(
            "qwenserve_stage_seconds",
            "Time in one stage of a request.",
            ["stage"],
            registry=registry,
            buckets=_STAGE_SECONDS,
        )
        self.running = Gauge("qwenserve_running_requests", "Requests under way in this router.", registry=registry)

    def render(self) -> tuple[bytes, str]:
        """Returns the exposition text and its content type."""
        return prometheus_client.generate_latest(self.registry), prometheus_client.CONTENT_TYPE_LATEST
