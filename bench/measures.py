"""Records to figures: distributions, throughput, goodput, errors by reason. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from qwenserve.bench.record import Record


class Distribution(NamedTuple):
    """One quantity over many requests or events; milliseconds unless its name says otherwise. All 0 when empty."""

    n: int
    mean: float
    p50: float
    p90: float
    p99: float
    least: float
    most: float


def distribution(values: Iterable[float], scale: float = 1.0) -> Distribution:
    """Summarises `values` times `scale`. Percentiles are interpolated linearly between neighbours."""
    data = np.fromiter(values, dtype=np.float64) * scale
    if not data.size:
        return Distribution(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    p50, p90, p99 = np.percentile(data, (50, 90, 99))
    return Distribution(
        int(data.size),
        float(data.mean()),
        float(p50),
        float(p90),
        float(p99),
        float(data.min()),
        float(data.max()),
    )


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in milliseconds that a request must keep to count as good; None: no limit."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    @classmethod
    def parse(cls, parts: Sequence[str]) -> Slo:
        """Reads `ttft:200`, `tpot:50`, `e2e:5000`. Raises ValueError naming the part."""
        limits: dict[str, float] = {}
        for part in parts:
            name, _, text = part.partition(":")
            if name not in ("ttft", "tpot", "e2e"):
                raise ValueError(f"{part!r}: an SLO is ttft:MS, tpot:MS or e2e:MS")
            try:
                limits[f"{name}_ms"] = float(text)
            except ValueError:
                raise ValueError(f"{part!r}: {text!r} is no number of milliseconds") from None
        return cls(**limits)

    def met_by(self, record: Record) -> bool:
        """Whether a finished request kept every limit. A figure that it does not have (TPOT of one token) is kept."""
        pairs = (
            (self.ttft_ms, record.ttft),
            (self.tpot_ms, record.tpot),
            (self.e2e_ms, record.e2e),
        )
        return all(limit is None or value is None or value * 1e3 <= limit for limit, value in pairs)


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. Times in milliseconds, rates per second of `duration_s` (first send to last end)."""

    duration_s: float
    sent: int
    succeeded: int
    failed: int
    errors: Mapping[str, int]
    requests_per_s: float
    output_tokens_per_s: float
    prompt_tokens_per_s: float
    prompt_tokens: int
    output_tokens: int
    events: int
    # None where no answer told.
    cached_tokens: int | None
    ttft_ms: Distribution
    tpot_ms: Distribution
    itl_ms: Distribution
    e2e_ms: Distribution
    lateness_ms: Distribution
    output_length: Distribution
    # None without an SLO.
    goodput_per_s: float | None
    good_share: float | None
    peak_concurrency: int

    def as_json(self) -> dict[str, Any]:
        """Returns plain values for the JSON document."""
        plain = asdict(self)
        for key, value in plain.items():
            if isinstance(value, Distribution):
                plain[key] = value._asdict()
        plain["errors"] = dict(self.errors)
        return plain


def measure(records: Sequence[Record], slo: Slo | None = None) -> Figures:
    """Folds the records of one run. Failed requests count in `errors` and nowhere else."""
    good = [record for record in records if not record.error]
    starts = [record.sent for record in records if record.sent]
    ends = [record.ended for record in records if record.ended]
    duration = max(ends) - min(starts) if starts and ends else 0.0
    per_second = 1 / duration if duration > 0 else 0.0
    cached = [record.cached_tokens for record in good if record.cached_tokens is not None]
    output = sum(record.tokens for record in good)
    prompt = sum(record.prompt_tokens or record.expected_prompt_tokens for record in good)
    kept = None if slo is None else sum(map(slo.met_by, good))
    return Figures(
        duration_s=duration,
        sent=len(records),
        succeeded=len(good),
        failed=len(records) - len(good),
        errors=dict(Counter(record.error for record in records if record.error).most_common()),
        requests_per_s=len(good) * per_second,
        output_tokens_per_s=output * per_second,
        prompt_tokens_per_s=prompt * per_second,
        prompt_tokens=prompt,
        output_tokens=output,
        events=sum(record.events for record in good),
        cached_tokens=sum(cached) if cached else None,
        ttft_ms=distribution((v for r in good if (v := r.ttft) is not None), 1e3),
        tpot_ms=distribution((v for r in good if (v := r.tpot) is not None), 1e3),
        itl_ms=distribution((gap for r in good for gap in r.gaps()), 1e3),
        e2e_ms=distribution((r.e2e for r in good), 1e3),
        lateness_ms=distribution((r.lateness for r in records if r.sent), 1e3),
        output_length=distribution(float(r.tokens) for r in good),
        goodput_per_s=None if kept is None else kept * per_second,
        good_share=None if kept is None or not records else kept / len(records),
        peak_concurrency=peak_concurrency(records),
    )


def peak_concurrency(records: Iterable[Record]) -> int:
    """Returns the most requests that were under way at once."""
    edges = sorted(edge for r in records if r.sent for edge in ((r.sent, 1), (r.ended, -1)))
    running = peak = 0
    for _, step in edges:
        running += step
        peak = max(peak, running)
    return peak


class Spread(NamedTuple):
    """One figure over repeated runs."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Returns median and range. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values")
    return Spread(float(np.median(values)), min(values), max(values))
