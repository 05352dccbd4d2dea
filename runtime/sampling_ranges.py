"""What sampling parameters may be: one table for HTTP, gRPC, configuration, worker and engines. Pure.

Names are those of `qwenserve.type.v1.SamplingParams`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qwenserve.runtime.values import frozen_value

_MAX_INT32 = 2**31 - 1

MAX_CHOICES = 16
MAX_STOP_STRINGS = 16
MAX_LOGIT_BIAS = 300
MAX_STOP_TOKEN_IDS = 1024
MAX_ALLOWED_TOKEN_IDS = 1024
MAX_TOP_LOGPROBS = 20
MAX_CACHE_SALT = 256
MAX_SESSION = 256


@frozen_value
class Range:
    """Allowed values of a number: `low` to `high`, without `low` itself where `low_excluded`.

    `neutral` is the value that changes nothing; None where there is none.
    """

    low: float
    high: float
    neutral: float | None = None
    low_excluded: bool = False

    def holds(self, value: float) -> bool:
        """Returns whether a value is allowed; NaN never is."""
        return self.low <= value <= self.high and not (self.low_excluded and value == self.low)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.low_excluded else f"{self.low:g}"
        return f"{low} or more" if self.high in (math.inf, _MAX_INT32) else f"{low} to {self.high:g}"

    def limits(self) -> Mapping[str, Any]:
        """Returns the range as the keyword arguments of a pydantic field."""
        high = {} if self.high in (math.inf, _MAX_INT32) else {"le": self.high}
        return {"gt" if self.low_excluded else "ge": self.low, **high}


RANGES: Mapping[str, Range] = {
    "temperature": Range(0, 2, 1),
    "top_p": Range(0, 1, 1, low_excluded=True),
    "top_k": Range(0, _MAX_INT32, 0),
    "min_p": Range(0, 1, 0),
    "presence_penalty": Range(-2, 2, 0),
    "frequency_penalty": Range(-2, 2, 0),
    "repetition_penalty": Range(0, 2, 1, low_excluded=True),
    "max_tokens": Range(1, _MAX_INT32),
    "min_tokens": Range(0, _MAX_INT32, 0),
    "top_logprobs": Range(0, MAX_TOP_LOGPROBS),
}

# Of each value of `logit_bias`.
BIAS = Range(-100, 100, 0)

# Of a request's `priority`. A waiting request rises by one a second, so these are seconds of waiting too.
PRIORITY = Range(-100, 100, 0)

# What "unset everywhere" means: no filter, no penalty.
NEUTRAL: Mapping[str, float | int | bool] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
    "ignore_eos": False,
}


_WORD = (1 << 64) - 1
_SEED_BITS = (1 << 63) - 1


def choice_seed(seed: int, index: int) -> int:
    """Returns the seed of choice `index` of a request whose own seed is `seed`, any 64-bit number.

    The first choice has the request's seed itself, so that it is what a request for one answer gets. The others have 63
    bits that two steps of splitmix64 make of seed and index: seed 1's second choice has nothing in common with seed 2's
    first.
    """
    if index == 0:
        return seed
    return _splitmix64(_splitmix64(seed & _WORD) + index) & _SEED_BITS


def _splitmix64(state: int) -> int:
    """One step of Steele, Lea and Flood's generator: every bit of `state` reaches every bit of the result."""
    mixed = (state + 0x9E3779B97F4A7C15) & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
    return mixed ^ (mixed >> 31)
