"""When requests are sent: pure, seeded, made before the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

RampShape = Literal["linear", "exponential"]


class Arrivals(NamedTuple):
    """An open-loop schedule. `rate` is requests per second; infinite sends everything at once.

    Gaps follow a gamma distribution of shape `burstiness`: 1 is a Poisson process, below 1 comes in bursts, above 1 is
    steadier, infinite is a fixed beat. With `final_rate` the rate moves from `rate` to it over the run.
    """

    rate: float = math.inf
    burstiness: float = 1.0
    final_rate: float | None = None
    ramp: RampShape = "linear"


def arrival_times(count: int, arrivals: Arrivals, seed: int) -> Sequence[float]:
    """Returns `count` offsets in seconds from the start, ascending. Raises ValueError for a rate or shape that is not
    above 0."""
    _check(arrivals)
    if math.isinf(arrivals.rate):
        return [0.0] * count
    rates = [rate_at(i / max(1, count - 1), arrivals) for i in range(count)]
    scaled = _gaps(count, arrivals.burstiness, seed) / np.array(rates)
    # The drawn gaps are stretched to their expected sum, so that runs with different seeds offer the same load.
    scaled *= sum(1 / rate for rate in rates) / scaled.sum()
    times = np.cumsum(scaled)
    return [float(t) for t in times - times[0]]


def _gaps(count: int, burstiness: float, seed: int) -> npt.NDArray[np.float64]:
    if math.isinf(burstiness):
        return np.ones(count)
    return np.random.default_rng(seed).gamma(burstiness, 1 / burstiness, count)


def rate_at(share: float, arrivals: Arrivals) -> float:
    """Returns the rate when `share` (0 to 1) of the requests have been sent."""
    if arrivals.final_rate is None:
        return arrivals.rate
    if arrivals.ramp == "linear":
        return arrivals.rate + (arrivals.final_rate - arrivals.rate) * share
    return float(arrivals.rate * (arrivals.final_rate / arrivals.rate) ** share)


def slot_starts(concurrency: int, ramp_s: float) -> Sequence[float]:
    """Returns when each of `concurrency` closed-loop slots starts, spread evenly over `ramp_s` seconds."""
    return [ramp_s * slot / concurrency for slot in range(concurrency)]


def _check(arrivals: Arrivals) -> None:
    for name, value in (
        ("rate", arrivals.rate),
        ("burstiness", arrivals.burstiness),
        ("final rate", arrivals.final_rate),
    ):
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}; it must be above 0")
    if arrivals.final_rate is not None and (math.isinf(arrivals.rate) or math.isinf(arrivals.final_rate)):
        raise ValueError("a ramp needs two finite rates")
