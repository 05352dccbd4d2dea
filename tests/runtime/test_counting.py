"""Counters and histograms: the text that Prometheus reads is what its own library would write."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from qwenserve.runtime.counting import Counters, Histograms, RecentCounters

BOUNDS = (0.001, 0.5, 2.0, 1000.0)


def text(registry: CollectorRegistry) -> list[str]:
    """The exposition without the times of creation's values, which differ."""
    lines = generate_latest(registry).decode().splitlines()
    return [line.rsplit(" ", 1)[0] if "_created" in line and line[0] != "#" else line for line in lines]


@pytest.mark.parametrize("amounts", [(), (0,), (1, 2.5, 3), (2**53,)])
def test_a_counter(amounts: tuple[float, ...]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = Counters("things", "Things \\ counted.\nAll of them.")
    ours.register(family)
    counter = prometheus_client.Counter("things", "Things \\ counted.\nAll of them.", registry=theirs)

    for amount in amounts:
        family.labels().inc(amount)
        counter.inc(amount)

    assert text(ours) == text(theirs)


@pytest.mark.parametrize("seen", [(), (("a", "x"),), (("b", 'quote " and\nline'), ("a", "x"), ("a", "x"))])
def test_labelled_counters(seen: tuple[tuple[str, str], ...]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = Counters("things", "Things.", ["kind", "reason"])
    ours.register(family)
    counter = prometheus_client.Counter("things", "Things.", ["kind", "reason"], registry=theirs)

    for values in seen:
        family.labels(*values).inc()
        counter.labels(*values).inc()

    assert text(ours) == text(theirs)


@pytest.mark.parametrize("values", [(), (0.0,), (0.001, 0.0010001, 0.5, 1.0, 2.0, 999.0, 1000.0, 1001.0, 1e9)])
@pytest.mark.parametrize("labels", [(), ("stage",)])
def test_a_histogram(labels: tuple[str, ...], values: tuple[float, ...]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = Histograms("wait_seconds", "Waiting.", BOUNDS, labels)
    ours.register(family)
    histogram = prometheus_client.Histogram("wait_seconds", "Waiting.", labels, buckets=BOUNDS, registry=theirs)
    one, other = family.labels(*labels), histogram.labels(*labels) if labels else histogram

    for value in values:
        one.observe(value)
        other.observe(value)

    assert text(ours) == text(theirs)


@pytest.mark.parametrize(("disabled", "expected"), [("true", False), ("", True)])
def test_times_of_creation_follow_the_library_s_setting(disabled: str, expected: bool) -> None:
    script = "from runtime.metrics import RouterMetrics; print(RouterMetrics().render()[0].decode())"
    environment = {**os.environ, "PROMETHEUS_DISABLE_CREATED_SERIES": disabled}

    shown = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)

    assert ("qwenserve_prompt_tokens_created" in shown.stdout) is expected
    assert ("qwenserve_request_seconds_created" in shown.stdout) is expected
    assert "qwenserve_prompt_tokens_total 0.0" in shown.stdout


@pytest.mark.parametrize("bound", [0, 0.005, 1, 2.5, 1e5, 999_999, 1e6, 1_234_567.5, 120_000_000, 1e16, 1e20, 1e-7])
def test_bounds_of_buckets(bound: float) -> None:
    """As the library writes them: `le` is compared as a text by whoever sums over processes."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    ours.register(Histograms("wait_seconds", "Waiting.", (bound,)))
    prometheus_client.Histogram("wait_seconds", "Waiting.", buckets=(bound,), registry=theirs)

    assert text(ours) == text(theirs)


def test_counters_that_know_when_they_last_grew() -> None:
    """A gauge beside the counter, by the same labels."""
    registry = CollectorRegistry()
    family = RecentCounters("things", "Things.", ("last_thing_timestamp_seconds", "When."), ["reason"])
    registry.register(family)
    before = time.time()

    family.labels("a").inc()

    last = registry.get_sample_value("last_thing_timestamp_seconds", {"reason": "a"})
    assert registry.get_sample_value("things_total", {"reason": "a"}) == 1
    assert last is not None
    assert before <= last <= time.time()
