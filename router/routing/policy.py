"""How a worker is chosen: pure decisions over what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from qwenserve.router.routing.prefix_index import PrefixIndex
from qwenserve.runtime.block_hash import DEFAULT_BLOCK_TOKENS, PromptBlocks

PolicyName = Literal["prefix", "least_loaded", "round_robin"]

# Costs in prompt tokens of work that a new request waits behind or slows down. A decoding request takes a share of
# every step; a queued one must also be finished first.
_RUNNING_COST = 32.0
_QUEUED_COST = 256.0


class Candidate(NamedTuple):
    """A worker as a policy sees it. `block_tokens` is the size of its KV blocks. `score`: higher is better."""

    address: str
    name: str
    ready: bool
    running: int
    queued: int
    max_running: int
    pending_prompt_tokens: int
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    expected_cached_tokens: int = 0
    score: float = 0.0


class Policy(Protocol):
    """Ranks workers for a prompt."""

    def rank(self, candidates: Sequence[Candidate], prompt: PromptBlocks) -> list[Candidate]:
        """Returns the candidates with scores, best first; those not ready last."""

    def chosen(self, candidate: Candidate, prompt: PromptBlocks) -> None:
        """Learns that a worker was given this prompt."""

    def forget(self, address: str) -> None:
        """Learns that a worker has gone or started again: what it had cached is no longer there."""


class PrefixPolicy:
    """Least work to do: tokens not cached there, plus what is ahead in the queue."""

    def __init__(self, index: PrefixIndex | None = None) -> None:
        self._index = index or PrefixIndex()
        self._turn = 0

    def rank(self, candidates: Sequence[Candidate], prompt: PromptBlocks) -> list[Candidate]:
        """Ranks by `_waiting_cost` plus the uncached tokens of this prompt."""
        cached: dict[str, int] = {}
        for size in {candidate.block_tokens for candidate in candidates}:
            matched = self._index.match(prompt.hashes(size))
            cached |= {address: blocks * size for address, blocks in matched.items()}
        scored = []
        for candidate in candidates:
            expected = cached.get(candidate.address, 0)
            uncached = len(prompt.token_ids) - expected
            scored.append(
                candidate._replace(expected_cached_tokens=expected, score=-(uncached + _waiting_cost(candidate)))
            )
        return _best_first(scored, self._turn)

    def chosen(self, candidate: Candidate, prompt: PromptBlocks) -> None:
        """Records the prompt's blocks for that worker."""
        self._turn += 1
        self._index.record(candidate.address, prompt.hashes(candidate.block_tokens))

    def forget(self, address: str) -> None:
        """Expects nothing cached there."""
        self._index.forget(address)


class LeastLoadedPolicy:
    """The shortest queue, prompts aside."""

    def __init__(self) -> None:
        self._turn = 0

    def rank(self, candidates: Sequence[Candidate], prompt: PromptBlocks) -> list[Candidate]:
        """Ranks by `_waiting_cost`."""
        return _best_first([c._replace(score=-_waiting_cost(c)) for c in candidates], self._turn)

    def chosen(self, candidate: Candidate, prompt: PromptBlocks) -> None:
        """Moves on, so that ties do not always go to the same worker."""
        self._turn += 1

    def forget(self, address: str) -> None:
        """Knows of no cache."""


class RoundRobinPolicy:
    """Each in turn."""

    def __init__(self) -> None:
        self._turn = 0

    def rank(self, candidates: Sequence[Candidate], prompt: PromptBlocks) -> list[Candidate]:
        """Ranks by position after the last one chosen."""
        return _best_first(list(candidates), self._turn)

    def chosen(self, candidate: Candidate, prompt: PromptBlocks) -> None:
        """Moves on."""
        self._turn += 1

    def forget(self, address: str) -> None:
        """Knows of no cache."""


def make_policy(name: PolicyName) -> Policy:
    """Returns the policy of that name."""
    policies: dict[str, type[PrefixPolicy] | type[LeastLoadedPolicy] | type[RoundRobinPolicy]] = {
        "prefix": PrefixPolicy,
        "least_loaded": LeastLoadedPolicy,
        "round_robin": RoundRobinPolicy,
    }
    return policies[name]()


def _waiting_cost(candidate: Candidate) -> float:
    return candidate.pending_prompt_tokens + _RUNNING_COST * candidate.running + _QUEUED_COST * candidate.queued


def _best_first(candidates: list[Candidate], turn: int) -> list[Candidate]:
    # Ties go round: with equal scores a fixed order would load the first worker only.
    count = max(1, len(candidates))
    order = sorted(
        range(len(candidates)), key=lambda i: (not candidates[i].ready, -candidates[i].score, (i - turn) % count)
    )
    return [candidates[i] for i in order]
