"""Counters and histograms of plain numbers, which become Prometheus metrics at each scrape.

The library's own guard every number with a lock and look for a bucket in a Python loop; a request needs ten of them.
All counting and reading must be done by one thread: the event loop's.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

# Whether each series also says when it began is decided for the library, by its environment variable.
_WITH_CREATED = any(
    sample.name.endswith("_created")
    for metric in prometheus_client.Counter("probe", "", registry=None).collect()
    for sample in metric.samples
)


class Count:
    """A number that only grows. `created` is in seconds since the epoch."""

    __slots__ = ("created", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.created = time.time()

    def inc(self, amount: float = 1) -> None:
        """Adds `amount`, which must not be negative."""
        self.value += amount


class RecentCount(Count):
    """Knows when it last grew, in seconds since the epoch. For what happens seldom: each time a clock is read."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        super().__init__()
        self.last = self.created

    def inc(self, amount: float = 1) -> None:
        """Adds `amount`, which must not be negative."""
        super().inc(amount)
        self.last = time.time()


class Distribution:
    """How often values fell into each bucket, up to and with its bound, and their sum. The last bucket has the rest."""

    __slots__ = ("bounds", "counts", "created", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.created = time.time()

    def observe(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


SeriesT = TypeVar("SeriesT", bound="Count | Distribution")


CountT = TypeVar("CountT", bound=Count)


class _Family(Collector, Generic[SeriesT]):
    """All series of one name. Without label names there is one series, there from the beginning."""

    def __init__(self, name: str, meaning: str, labels: Sequence[str], new: Callable[[], SeriesT]) -> None:
        self._name = name
        self._meaning = meaning
        self._label_names = labels
        self._new: Callable[[], SeriesT] = new
        self._series: dict[tuple[str, ...], SeriesT] = {}
        if not labels:
            self.labels()

    def labels(self, *values: str) -> SeriesT:
        """Returns the series with these values, in the order of the label names."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._new()
        return series

    def _add_created(self, metric: Metric, values: Sequence[str], series: SeriesT) -> None:
        if _WITH_CREATED:
            metric.add_sample(
                f"{self._name}_created", dict(zip(self._label_names, values, strict=True)), series.created
            )


def _bound(bound: float) -> str:
    """A bucket's bound as Prometheus writes it: with an exponent from a million on, where Python has none yet."""
    text = repr(float(bound))
    whole, _, fraction = text.partition(".")
    if len(whole) <= 6 or "e" in text:
        return text
    digits = f"{whole[1:]}{fraction}".rstrip("0")
    return f"{whole[0]}{'.' if digits else ''}{digits}e+{len(whole) - 1:02d}"


class _Counters(_Family[CountT]):
    """Counters of one name."""

    def collect(self) -> Iterator[Metric]:
        """Yields the family as it stands."""
        metric = CounterMetricFamily(self._name, self._meaning, labels=self._label_names)
        for values, series in self._series.items():
            metric.add_metric(values, series.value)
            self._add_created(metric, values, series)
        yield metric


class Counters(_Counters[Count]):
    """Counters of one name."""

    def __init__(self, name: str, meaning: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, meaning, labels, Count)


class RecentCounters(_Counters[RecentCount]):
    """Counters of one name, and a gauge that says when each last grew. `last` is the gauge's name and meaning."""

    def __init__(self, name: str, meaning: str, last: tuple[str, str], labels: Sequence[str] = ()) -> None:
        super().__init__(name, meaning, labels, RecentCount)
        self._last = last

    def collect(self) -> Iterator[Metric]:
        """Yields both families as they stand."""
        yield from super().collect()
        name, meaning = self._last
        metric = GaugeMetricFamily(name, meaning, labels=self._label_names)
        for values, series in self._series.items():
            metric.add_metric(values, series.last)
        yield metric


class Histograms(_Family[Distribution]):
    """Histograms of one name and the same buckets, whose bounds are in the unit that the name ends with, ascending."""

    def __init__(self, name: str, meaning: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        super().__init__(name, meaning, labels, lambda: Distribution(bounds))
        self._bounds = [*map(_bound, bounds), "+Inf"]

    def collect(self) -> Iterator[Metric]:
        """Yields the family as it stands."""
        metric = HistogramMetricFamily(self._name, self._meaning, labels=self._label_names)
        for values, series in self._series.items():
            # Prometheus wants the count of values up to each bound.
            below = list(zip(self._bounds, map(float, accumulate(series.counts)), strict=True))
            metric.add_metric(values, below, series.sum)
            self._add_created(metric, values, series)
        yield metric
