"""What a run of answers amounts to: what was reused, by whom, and how evenly the rest was spread. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qwenserve.bench.reuse.fleet import PREFILL_TOKENS_PER_S, STEP_MS, Answer, WorkerState
from qwenserve.bench.reuse.unbounded import reusable


class Reuse(NamedTuple):
    """One run. Tokens are of all requests together; `reusable` is what a cache without bound would have found."""

    requests: int
    prompt_tokens: int
    answer_tokens: int
    reusable: int
    # Found in the engines' caches, by requests that an engine computed.
    found: int
    # Of requests that were answered from kept answers, and of those that joined another one: prompt and answer.
    kept: int
    joined: int
    kept_requests: int
    joined_requests: int
    # The most over the mean of all workers: engine time, and tokens computed.
    busy_skew: float
    work_skew: float
    expected: Mapping[str, float]

    @property
    def share(self) -> float:
        """Cached prompt tokens over what one cache without bound would have found."""
        return self.found / self.reusable if self.reusable else 1.0

    @property
    def saved(self) -> float:
        """The share of all prompt and answer tokens that no engine computed."""
        return (self.found + self.kept + self.joined) / (self.prompt_tokens + self.answer_tokens)

    def saved_by(self, tokens: int) -> float:
        """The share of all prompt and answer tokens that these are."""
        return tokens / (self.prompt_tokens + self.answer_tokens)


def figures_of(
    answers: Sequence[Answer],
    block_tokens: int,
    before: Sequence[WorkerState],
    after: Sequence[WorkerState],
    expected: Mapping[str, float],
) -> Reuse:
    """Returns the figures of one run. `expected`: the routers' counts of what they expected of caches."""
    computed = [one for one in answers if one.cache not in ("hit", "joined")]
    kept = [one for one in answers if one.cache == "hit"]
    joined = [one for one in answers if one.cache == "joined"]
    uncached: dict[str, int] = {f"w{number}": 0 for number in range(len(before))}
    work = dict(uncached)
    for one in computed:
        uncached[one.worker] += len(one.prompt) - one.cached_tokens
        work[one.worker] += len(one.prompt) - one.cached_tokens + len(one.answer)
    simulated = block_tokens > 1
    busy = [
        uncached[f"w{number}"] / PREFILL_TOKENS_PER_S + (last.steps - first.steps) * STEP_MS / 1000
        if simulated
        else last.cpu_s - first.cpu_s
        for number, (first, last) in enumerate(zip(before, after, strict=True))
    ]
    return Reuse(
        requests=len(answers),
        prompt_tokens=sum(len(one.prompt) for one in answers),
        answer_tokens=sum(len(one.answer) for one in answers),
        reusable=sum(reusable([(one.prompt, one.answer) for one in computed], block_tokens)),
        found=sum(one.cached_tokens for one in computed),
        kept=sum(len(one.prompt) + len(one.answer) for one in kept),
        joined=sum(len(one.prompt) + len(one.answer) for one in joined),
        kept_requests=len(kept),
        joined_requests=len(joined),
        busy_skew=skew(busy),
        work_skew=skew(list(work.values())),
        expected=expected,
    )


def skew(amounts: Sequence[float]) -> float:
    """Returns the most over the mean."""
    return max(amounts) * len(amounts) / sum(amounts) if sum(amounts) else 1.0
