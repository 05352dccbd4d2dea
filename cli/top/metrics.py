"""Metrics of routers as numbers: what one look found, and what happened between two. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

Labels: TypeAlias = "frozenset[tuple[str, str]]"
Samples: TypeAlias = "Mapping[tuple[str, Labels], float]"


class Look(NamedTuple):
    """What one process told at a time, in seconds of any clock. Processes are told apart by `process`."""

    at: float
    samples: Samples

    @property
    def process(self) -> tuple[float, float]:
        """Number and start of the process, in seconds since the epoch; 0 where it does not tell.

        The start alone would not do: it is rounded to hundredths of a second, and a supervisor starts several at once.
        """
        number, began = (
            self.samples.get((name, frozenset()), 0.0)
            for name in ("qwenserve_process_id", "process_start_time_seconds")
        )
        return number, began


def read_metrics(text: str, at: float) -> Look:
    """Returns the samples of a page of metrics. Raises ValueError for what is none."""
    samples = {
        (sample.name, frozenset(sample.labels.items())): float(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return Look(at, samples)


def values_by(looks: Iterable[Look], metric: str, label: str) -> dict[str, float]:
    """Returns the largest value of a metric for each value of a label: routers tell of the same workers."""
    found: dict[str, float] = {}
    for look in looks:
        for (name, labels), value in look.samples.items():
            if name == metric and (key := dict(labels).get(label)) is not None:
                found[key] = max(value, found.get(key, -math.inf))
    return found


def total(looks: Iterable[Look], metric: str, **having: str) -> float:
    """Returns the sum of a metric over processes and labels, of the series that have these labels."""
    wanted = frozenset(having.items())
    return sum(
        value for look in looks for (name, labels), value in look.samples.items() if name == metric and wanted <= labels
    )


class Span(NamedTuple):
    """Two looks at one process, the older one first."""

    before: Look
    now: Look

    @property
    def seconds(self) -> float:
        """Time between them."""
        return self.now.at - self.before.at

    def growth(self, metric: str) -> dict[Labels, float]:
        """Returns by how much each series of a counter has grown. One that was not there had been 0."""
        return {
            labels: max(0.0, value - self.before.samples.get((name, labels), 0.0))
            for (name, labels), value in self.now.samples.items()
            if name == metric
        }


def rate(spans: Iterable[Span], metric: str, **having: str) -> float:
    """Returns the growth a second of a counter, over processes and labels."""
    wanted = frozenset(having.items())
    return sum(
        grown / span.seconds
        for span in spans
        if span.seconds > 0
        for labels, grown in span.growth(metric).items()
        if wanted <= labels
    )


def rates_by(spans: Iterable[Span], metric: str, label: str) -> dict[str, float]:
    """Returns the growth a second of a counter for each value of a label: the largest that a process tells."""
    found: dict[str, float] = {}
    for span in spans:
        for labels, grown in span.growth(metric).items():
            key = dict(labels).get(label)
            if key is not None and span.seconds > 0:
                found[key] = max(grown / span.seconds, found.get(key, 0.0))
    return found


def quantile(share: float, spans: Iterable[Span], histogram: str) -> float | None:
    """Returns the value below which `share` of what was observed lies, by straight lines within buckets; None where
    nothing was observed. In the last bucket it is the bound before it.
    """
    below: dict[float, float] = {}
    for span in spans:
        for labels, grown in span.growth(f"{histogram}_bucket").items():
            bound = float(dict(labels)["le"])
            below[bound] = below.get(bound, 0.0) + grown
    bounds = sorted(below)
    if not bounds or not below[bounds[-1]]:
        return None
    rank = share * below[bounds[-1]]
    low, under = 0.0, 0.0
    for bound in bounds:
        if below[bound] >= rank:
            if math.isinf(bound):
                return low
            inside = below[bound] - under
            return bound if not inside else low + (bound - low) * (rank - under) / inside
        low, under = bound, below[bound]
    return low
