"""`bench sweep`: concurrency up until throughput stops rising; names the knee. The decisions are pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console

from qwenserve.bench.document import Measured
from qwenserve.bench.serve import Plan, Results, measure_serving

# Two steps in a row that gain less than this end the sweep: one may be noise.
_LEAST_GAIN = 0.05
_FLAT_STEPS = 2


class Point(NamedTuple):
    """One concurrency and its medians."""

    concurrency: int
    output_tokens_per_s: float
    requests_per_s: float
    ttft_p50_ms: float
    tpot_p50_ms: float
    e2e_p50_ms: float
    e2e_p99_ms: float


def point(concurrency: int, run: Measured) -> Point:
    """Returns a run as a point of the sweep."""
    figures = run.figures
    return Point(
        concurrency,
        figures.output_tokens_per_s,
        figures.requests_per_s,
        figures.ttft_ms.p50,
        figures.tpot_ms.p50,
        figures.e2e_ms.p50,
        figures.e2e_ms.p99,
    )


def stopped_rising(throughputs: Sequence[float]) -> bool:
    """Whether the last steps gained too little to go on."""
    if len(throughputs) <= _FLAT_STEPS:
        return False
    best_before = max(throughputs[:-_FLAT_STEPS])
    return max(throughputs[-_FLAT_STEPS:]) < best_before * (1 + _LEAST_GAIN)


def knee(points: Sequence[Point]) -> int | None:
    """Returns the position of the knee: where throughput by latency (E2E p50) is greatest.

    Below it, more concurrency buys throughput for little latency; above it, latency grows faster than throughput.
    With equal values the highest concurrency counts. None for no points.
    """
    best: int | None = None
    power = 0.0
    for position, at in enumerate(points):
        if at.e2e_p50_ms > 0 and (value := at.output_tokens_per_s / at.e2e_p50_ms) >= power:
            best, power = position, value
    return best


class Sweep(NamedTuple):
    """All points, in rising concurrency, and the knee's position."""

    points: Sequence[Point]
    knee: int | None
    results: Sequence[Results]


def next_concurrency(now: int, factor: float) -> int:
    """Returns the next concurrency: at least one more."""
    return max(now + 1, round(now * factor))


async def sweep(plan: Plan, console: Console, *, first: int, most: int, factor: float) -> Sweep:
    """Measures from `first` to at most `most` requests at a time. Each step sends at least four rounds of requests."""
    points: list[Point] = []
    all_results: list[Results] = []
    concurrency = first
    while concurrency <= most and not stopped_rising([p.output_tokens_per_s for p in points]):
        seed = plan.dataset.seed + 7919 * len(points)  # new prompts, so that no step finds the caches of the one before
        dataset = plan.dataset._replace(requests=max(plan.dataset.requests, 4 * concurrency), seed=seed)
        step = plan._replace(dataset=dataset, load=plan.load._replace(concurrency=concurrency))
        results = await measure_serving(step, console)
        all_results.append(results)
        points.append(point(concurrency, results.runs[0]))
        at = points[-1]
        console.print(
            f"concurrency {at.concurrency}: {at.output_tokens_per_s:.1f} tok/s, TTFT p50 {at.ttft_p50_ms:.1f} ms, "
            f"TPOT p50 {at.tpot_p50_ms:.2f} ms, E2E p50 {at.e2e_p50_ms:.1f} ms",
            highlight=False,
        )
        concurrency = next_concurrency(concurrency, factor)
    return Sweep(points, knee(points), all_results)
