"""From logits to an id, in the order that `Sampling` states. numpy, in float64; no torch.

The random number of a place depends on the seed and the place alone, so that an answer that is sent back and continued
goes on as it would have.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qwenserve.worker.engine_interface import Sampling, TokenLogprob

Logits = NDArray[np.float64]

_WORD = (1 << 64) - 1


class Seen(NamedTuple):
    """What penalties look at: ids of prompt and answer, and how often each occurs in the answer."""

    everywhere: Collection[int]
    in_answer: Mapping[int, int]


def choose(
    raw: Logits, sampling: Sampling, seen: Seen, *, allowed: Set[int] | None, banned: Set[int], place: int
) -> int:
    """Returns the id at `place`, the number of ids before it. `allowed`: all where None; some must be left."""
    logits = _limited(raw, allowed, banned)
    for token, bias in sampling.logit_bias.items():
        logits[token] += bias
    _penalize(logits, sampling, seen)
    if sampling.temperature == 0:
        return int(logits.argmax())
    return _drawn(logits / sampling.temperature, sampling, uniform(sampling.seed, place))


def scored(raw: Logits, token: int, alternatives: int) -> TokenLogprob:
    """Returns the log-probability of an id before any parameter applies."""
    highest = raw.max()
    logprobs = raw - highest - np.log(np.exp(raw - highest).sum())
    top = _first(logprobs, alternatives)
    return TokenLogprob(token, float(logprobs[token]), [(int(each), float(logprobs[each])) for each in top])


def uniform(seed: int, place: int) -> float:
    """Returns the random number of a place, 0 to below 1, in steps of 2 ** -53 (splitmix64 of seed and place)."""
    mixed = (seed + (place + 1) * 0x9E3779B97F4A7C15) & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
    return ((mixed ^ (mixed >> 31)) >> 11) * 2.0**-53


def _limited(raw: Logits, allowed: Set[int] | None, banned: Set[int]) -> Logits:
    if allowed is None:
        logits = raw.copy()
    else:
        logits = np.full_like(raw, -np.inf)
        kept = np.fromiter(allowed, dtype=np.int64)
        logits[kept] = raw[kept]
    if banned:
        logits[np.fromiter(banned, dtype=np.int64)] = -np.inf
    return logits


def _penalize(logits: Logits, sampling: Sampling, seen: Seen) -> None:
    if sampling.repetition_penalty != 1 and seen.everywhere:
        ids = np.fromiter(seen.everywhere, dtype=np.int64)
        factor = sampling.repetition_penalty
        logits[ids] = np.where(logits[ids] > 0, logits[ids] / factor, logits[ids] * factor)
    if sampling.presence_penalty or sampling.frequency_penalty:
        for token, count in seen.in_answer.items():
            logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * count


def _first(values: Logits, count: int) -> Any:
    """Returns the ids of the largest values, the largest first; ties go to the lowest id."""
    return np.argsort(-values, kind="stable")[:count]


def _drawn(logits: Logits, sampling: Sampling, random: float) -> int:
    order = _first(logits, sampling.top_k or len(logits))
    weights = np.exp(logits[order] - logits[order[0]])
    if sampling.top_p < 1:
        # The smallest number of ids whose probabilities together reach the mass.
        reached = np.cumsum(weights) >= sampling.top_p * weights.sum()
        count = int(reached.argmax()) + 1 if reached.any() else len(weights)
        order, weights = order[:count], weights[:count]
    if sampling.min_p > 0:
        kept = weights >= sampling.min_p  # the likeliest has weight 1
        order, weights = order[kept], weights[kept]
    sums = np.cumsum(weights)
    place = int(np.searchsorted(sums, random * sums[-1], side="right"))
    return int(order[min(place, len(order) - 1)])
