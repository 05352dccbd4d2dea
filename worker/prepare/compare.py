"""Two models on the same texts, in numbers: how often and how far they differ. Pure: what they said is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

TOP = 20  # alternatives for each position: the most that the worker protocol carries


class CannotCheck(Exception):
    """Two models that cannot be compared. The text says why and what to do."""


class Position(NamedTuple):
    """What a model says of one place: the log-probability of the id that stands there, and its `TOP` likeliest ids
    with theirs, the likeliest first."""

    logprob: float
    top: Sequence[tuple[int, float]]


class Spoken(NamedTuple):
    """One text: a position for each id from the second on, and the ids with which the model goes on after its
    prompt, each the likeliest."""

    positions: Sequence[Position]
    greedy: Sequence[int]


class Measured(NamedTuple):
    """What one model said. `seconds` is the time that all greedy ids took, one text after the other; `weight_bytes` 0
    where it is not known."""

    name: str
    spoken: Sequence[Spoken]
    seconds: float
    weight_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def perplexity(self) -> float:
        """Of the texts' ids: e to the mean of their negative log-probabilities."""
        logprobs = [position.logprob for text in self.spoken for position in text.positions]
        # A model that rules out what stands there has no finite perplexity; e to 700 is the largest number there is.
        return math.exp(min(700.0, -sum(logprobs) / len(logprobs)))

    @property
    def tokens_per_second(self) -> float:
        """Of greedy ids; 0 where no time was measured."""
        return sum(len(text.greedy) for text in self.spoken) / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Comparison:
    """B beside A. `mean_kl` (in nats, from A to B) is a lower bound: ids that are not among the `TOP` of both count as
    one. `greedy_agreement` is the mean share of greedy ids before the first that differs."""

    a: str
    b: str
    texts: int
    positions: int
    top1_agreement: float
    mean_kl: float
    perplexity_a: float
    perplexity_b: float
    greedy_agreement: float
    greedy_equal: int
    weight_bytes_a: int
    weight_bytes_b: int
    tokens_per_second_a: float
    tokens_per_second_b: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Thresholds:
    """What B must keep to."""

    min_top1: float = 0.95
    max_kl: float = 0.1
    max_perplexity_ratio: float = 1.1

    def missed(self, found: Comparison) -> list[str]:
        """Returns a line for each threshold that was missed."""
        ratio = found.perplexity_b / found.perplexity_a
        return [
            line
            for wrong, line in (
                (found.top1_agreement < self.min_top1, f"top-1 {found.top1_agreement:.4f} < {self.min_top1:g}"),
                (not found.mean_kl <= self.max_kl, f"mean KL {found.mean_kl:.4f} > {self.max_kl:g}"),
                (
                    not ratio <= self.max_perplexity_ratio,
                    f"perplexity ratio {ratio:.4f} > {self.max_perplexity_ratio:g}",
                ),
            )
            if wrong
        ]


def compare(a: Measured, b: Measured) -> Comparison:
    """Returns how B differs from A. Raises CannotCheck where they did not answer the same texts."""
    pairs = [pair for one, other in zip(a.spoken, b.spoken, strict=True) for pair in _paired(one, other)]
    if not pairs:
        raise CannotCheck("the texts have no position to compare")
    # Where ids are equally likely, either of them is the first.
    same = sum(_agrees(one, other) for one, other in pairs)
    shares = [_agreed(one.greedy, other.greedy) for one, other in zip(a.spoken, b.spoken, strict=True)]
    return Comparison(
        a=a.name,
        b=b.name,
        texts=len(a.spoken),
        positions=len(pairs),
        top1_agreement=same / len(pairs),
        mean_kl=sum(divergence(one.top, other.top) for one, other in pairs) / len(pairs),
        perplexity_a=a.perplexity,
        perplexity_b=b.perplexity,
        greedy_agreement=sum(shares) / len(shares),
        greedy_equal=sum(share == 1 for share in shares),
        weight_bytes_a=a.weight_bytes,
        weight_bytes_b=b.weight_bytes,
        tokens_per_second_a=a.tokens_per_second,
        tokens_per_second_b=b.tokens_per_second,
        notes=(*(f"A: {note}" for note in a.notes), *(f"B: {note}" for note in b.notes)),
    )


def divergence(a: Sequence[tuple[int, float]], b: Sequence[tuple[int, float]]) -> float:
    """Returns the Kullback-Leibler divergence from `a` to `b` in nats, over ids that both name and one for the rest.
    Joining ids never raises it, so this is a lower bound."""
    of_b = dict(b)
    total = rest_a = rest_b = 0.0
    both = [(logprob, of_b[token_id]) for token_id, logprob in a if token_id in of_b]
    for one, other in both:
        total += math.exp(one) * (one - other)
    rest_a = max(0.0, 1 - sum(math.exp(one) for one, _ in both))
    rest_b = max(1e-12, 1 - sum(math.exp(other) for _, other in both))
    if rest_a > 1e-12:
        total += rest_a * math.log(rest_a / rest_b)
    return max(0.0, total)


def _paired(a: Spoken, b: Spoken) -> list[tuple[Position, Position]]:
    if len(a.positions) != len(b.positions):
        raise CannotCheck(f"{len(a.positions)} and {len(b.positions)} positions for one text: not the same ids")
    return list(zip(a.positions, b.positions, strict=True))


def _agrees(a: Position, b: Position) -> bool:
    first, logprob = a.top[0]
    return any(token_id == first for token_id, other in b.top if other == b.top[0][1]) or any(
        token_id == b.top[0][0] for token_id, other in a.top if other == logprob
    )


def _agreed(a: Sequence[int], b: Sequence[int]) -> float:
    longest = max(len(a), len(b))
    same = next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))
    return same / longest if longest else 1.0


def table(found: Comparison) -> str:
    """Returns what people read."""
    rows = [
        ("", "A", "B"),
        ("perplexity", f"{found.perplexity_a:.4f}", f"{found.perplexity_b:.4f}"),
        ("weights", _size(found.weight_bytes_a), _size(found.weight_bytes_b)),
        ("tokens/s", f"{found.tokens_per_second_a:.1f}", f"{found.tokens_per_second_b:.1f}"),
    ]
    return "\n".join(
        [
            f"A  {found.a}",
            f"B  {found.b}",
            f"{found.texts} texts, {found.positions} positions",
            "",
            *(f"{name:18}{one:>12}{other:>12}" for name, one, other in rows),
            "",
            f"top-1 agreement   {100 * found.top1_agreement:11.2f}%",
            f"mean KL           {found.mean_kl:12.5f} nats, at least",
            f"greedy agreement  {100 * found.greedy_agreement:11.2f}% of the ids before the first difference; "
            f"{found.greedy_equal} of {found.texts} texts all through",
            *(f"note: {note}" for note in found.notes),
        ]
    )


def facts(found: Comparison, thresholds: Thresholds) -> dict[str, Any]:
    """Returns a comparison as JSON has it."""
    missed = thresholds.missed(found)
    return {**asdict(found), "thresholds": asdict(thresholds), "missed": missed, "passed": not missed}


def _size(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB" if number else "unknown"
