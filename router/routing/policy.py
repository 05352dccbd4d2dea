"""How a worker is chosen: pure decisions over what is known of each.

All costs are in prompt tokens: what a new request would have computed itself, what is computed before it, and what
slows it down. A prompt that nobody has cached costs the same everywhere, so that load alone decides.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple, Protocol

from qwenserve.router.routing.prefix_index import MAX_BLOCKS, PrefixIndex
from qwenserve.runtime.block_hash import DEFAULT_BLOCK_TOKENS, PromptBlocks

PolicyName = Literal["prefix", "least_loaded", "power_of_two", "round_robin", "session_affinity"]

# A decoding request takes a share of every step; a queued one must also be finished first. If a running one counts as
# more, chats leave the worker that has their history for small differences in load (`bench reuse chats`: at 32 tokens
# 29 of 100 turns did), and work is spread no more evenly for it (tests/router/routing/test_skew.py).
_RUNNING_COST = 22.0
_QUEUED_COST = 256.0
# A token without a free KV block waits until others have ended, which takes longer than computing it.
_NO_BLOCK_COST = 4.0
# A session stays with its worker until this has so many times the mean of all requests, and some more.
_MOST_OF_MEAN = 1.25
_MOST_BESIDE_MEAN = 2


class Candidate(NamedTuple):
    """A worker as a policy sees it. `running` and `queued` count what it has not read yet too. `block_tokens` is the
    size of its KV blocks; free and total ones are -1 where it does not tell. `score`: higher is better.
    """

    address: str
    name: str
    ready: bool
    running: int
    queued: int
    max_running: int
    pending_prompt_tokens: int
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    free_kv_blocks: int = -1
    total_kv_blocks: int = -1
    expected_cached_tokens: int = 0
    score: float = 0.0


class RoutedPrompt(NamedTuple):
    """What a choice depends on: the prompt's blocks, and a name that requests of one session share (may be empty)."""

    blocks: PromptBlocks
    session: str = ""


class Policy(Protocol):
    """Ranks workers for a prompt."""

    @property
    def index(self) -> PrefixIndex | None:
        """What it knows of the workers' caches, for whoever hears of them; None where it has no use for that."""

    def rank(self, candidates: Sequence[Candidate], prompt: RoutedPrompt) -> list[Candidate]:
        """Returns the candidates with scores, best first; those not ready last. Changes nothing."""

    def chosen(self, candidate: Candidate, prompt: RoutedPrompt) -> None:
        """Learns that a worker was given this prompt."""

    def forget(self, address: str) -> None:
        """Learns that a worker has gone or restarted: what it had cached is no longer there."""

    def reason(self, candidate: Candidate, prompt: RoutedPrompt) -> str:
        """Says in words what a ranked candidate's place comes from."""


class _Policy:
    """What policies share: a counter that rotates ties. This base learns nothing."""

    def __init__(self, start: int = 0) -> None:
        """`start` is where the turns begin: another number for each router, or all would take the same worker first."""
        self._turn = start

    @property
    def index(self) -> PrefixIndex | None:
        """Has none."""
        return None

    def chosen(self, candidate: Candidate, prompt: RoutedPrompt) -> None:
        """Moves on, so that ties do not always go to the same worker."""
        self._turn += 1

    def forget(self, address: str) -> None:
        """Knows of no cache."""

    def reason(self, candidate: Candidate, prompt: RoutedPrompt) -> str:
        """Tells the load."""
        return _load_in_words(candidate, len(prompt.blocks.token_ids))


class PrefixPolicy(_Policy):
    """Least work to do: tokens not cached there, what is ahead of them, and room that is not there."""

    def __init__(self, start: int = 0, index: PrefixIndex | None = None) -> None:
        super().__init__(start)
        self._index = PrefixIndex() if index is None else index

    @property
    def index(self) -> PrefixIndex | None:
        """What it ranks by."""
        return self._index

    def rank(self, candidates: Sequence[Candidate], prompt: RoutedPrompt) -> list[Candidate]:
        """Ranks by the uncached tokens of this prompt and by `_load_cost`."""
        blocks = prompt.blocks
        cached: dict[str, int] = {}
        for size in {candidate.block_tokens for candidate in candidates}:
            matched = self._index.match(_reusable(blocks, size))
            cached |= {address: count * size for address, count in matched.items()}
        length = len(blocks.token_ids)
        scored = []
        for candidate in candidates:
            expected = cached.get(candidate.address, 0)
            cost = length - expected + _load_cost(candidate, length - expected)
            scored.append(_scored(candidate, -cost, expected))
        return _best_first(scored, self._turn)

    def chosen(self, candidate: Candidate, prompt: RoutedPrompt) -> None:
        """Records the prompt's blocks for that worker."""
        super().chosen(candidate, prompt)
        self._index.record(candidate.address, prompt.blocks.hashes(candidate.block_tokens))

    def forget(self, address: str) -> None:
        """Expects nothing cached there."""
        self._index.forget(address)

    def reason(self, candidate: Candidate, prompt: RoutedPrompt) -> str:
        """Tells what is cached, and the load."""
        length = len(prompt.blocks.token_ids)
        cached = f"{candidate.expected_cached_tokens} of {length} prompt tokens probably cached"
        return f"{cached}; {_load_in_words(candidate, length - candidate.expected_cached_tokens)}"


class LeastLoadedPolicy(_Policy):
    """The least work ahead, cached prefixes aside."""

    def rank(self, candidates: Sequence[Candidate], prompt: RoutedPrompt) -> list[Candidate]:
        """Ranks by `_load_cost`."""
        return _best_first(_by_load(candidates, prompt), self._turn)


class PowerOfTwoPolicy(_Policy):
    """The less loaded one of two that are drawn: routers that know the same stale loads do not all take one worker."""

    def rank(self, candidates: Sequence[Candidate], prompt: RoutedPrompt) -> list[Candidate]:
        """Ranks two workers, drawn at random, by load before the others."""
        ranked = _best_first(_by_load(candidates, prompt), self._turn)
        ready = [candidate for candidate in ranked if candidate.ready]
        # The draw depends on the turn alone, so that Explain shows what the next request will get.
        drawn = set(random.Random(self._turn).sample([c.address for c in ready], min(2, len(ready))))
        return sorted(ranked, key=lambda candidate: (not candidate.ready, candidate.address not in drawn))

    def reason(self, candidate: Candidate, prompt: RoutedPrompt) -> str:
        """Tells the load."""
        return f"the less loaded of two that are drawn goes first; {super().reason(candidate, prompt)}"


class RoundRobinPolicy(_Policy):
    """Each in turn."""

    def rank(self, candidates: Sequence[Candidate], prompt: RoutedPrompt) -> list[Candidate]:
        """Ranks by position after the last one chosen."""
        return _best_first(list(candidates), self._turn)

    def reason(self, candidate: Candidate, prompt: RoutedPrompt) -> str:
        """Tells the rule."""
        return "each worker in turn"


class SessionAffinityPolicy(PrefixPolicy):
    """Sends the requests of a session to one worker, as long as that does not have far more to do than the others.

    Which worker follows from the session's name and the workers' names alone, so that routers need not tell each other:
    each worker has a number for each session, and the largest one wins. Where a worker goes, only its own
    sessions move. Requests without a session are ranked as `PrefixPolicy` does.
    """

    def rank(self, candidates: Sequence[Candidate], prompt: RoutedPrompt) -> list[Candidate]:
        """Ranks by the session's numbers, workers with too much to do after the others."""
        ranked = super().rank(candidates, prompt)
        if not prompt.session:
            return ranked
        most = self._most(ranked)
        session = prompt.session.encode()
        placed = [candidate._replace(score=_session_number(session, candidate.name)) for candidate in ranked]
        return sorted(placed, key=lambda c: (not c.ready, c.running + c.queued > most, -c.score))

    def reason(self, candidate: Candidate, prompt: RoutedPrompt) -> str:
        """Tells whether the session decides."""
        if not prompt.session:
            return f"no session is named; {super().reason(candidate, prompt)}"
        return f"the session's number for this worker is its score; {super().reason(candidate, prompt)}"

    @staticmethod
    def _most(candidates: Sequence[Candidate]) -> float:
        loads = [candidate.running + candidate.queued for candidate in candidates if candidate.ready]
        return sum(loads) / max(1, len(loads)) * _MOST_OF_MEAN + _MOST_BESIDE_MEAN


_WITH_INDEX: Mapping[PolicyName, type[PrefixPolicy]] = {
    "prefix": PrefixPolicy,
    "session_affinity": SessionAffinityPolicy,
}
_WITHOUT_INDEX: Mapping[PolicyName, type[LeastLoadedPolicy | PowerOfTwoPolicy | RoundRobinPolicy]] = {
    "least_loaded": LeastLoadedPolicy,
    "power_of_two": PowerOfTwoPolicy,
    "round_robin": RoundRobinPolicy,
}


def make_policy(name: PolicyName, start: int = 0, index_blocks: int = MAX_BLOCKS) -> Policy:
    """Returns the policy of that name. `start` is where its turns begin, `index_blocks` the most that it remembers."""
    if name in _WITH_INDEX:
        return _WITH_INDEX[name](start, PrefixIndex(index_blocks))
    return _WITHOUT_INDEX[name](start)


def with_unread(running: int, queued: int, unread: int, max_running: int) -> tuple[int, int]:
    """Returns how many run and how many wait on a worker once it has read what was sent to it: what finds a free slot
    does not wait, or a chat would leave the worker with its history because somebody else's request is on its way.
    """
    start = min(unread, max(0, max_running - running - queued))
    return running + start, queued + unread - start


def _load_cost(candidate: Candidate, new_tokens: int) -> float:
    """Returns the cost of the work ahead of `new_tokens` on a worker, and of the KV blocks that they lack there."""
    cost = candidate.pending_prompt_tokens + _RUNNING_COST * candidate.running + _QUEUED_COST * candidate.queued
    if candidate.free_kv_blocks >= 0:
        cost += _NO_BLOCK_COST * max(0, new_tokens - candidate.free_kv_blocks * candidate.block_tokens)
    # Beyond its slots a request waits for others to end, as a queued one does.
    if candidate.max_running and not candidate.queued and candidate.running >= candidate.max_running:
        cost += _QUEUED_COST
    return cost


def _reusable(blocks: PromptBlocks, block_tokens: int) -> Sequence[int]:
    """Returns the blocks that an engine can take from its cache: it must compute the last token at least."""
    return blocks.hashes(block_tokens)[: (len(blocks.token_ids) - 1) // block_tokens]


def _by_load(candidates: Sequence[Candidate], prompt: RoutedPrompt) -> list[Candidate]:
    length = len(prompt.blocks.token_ids)
    return [_scored(candidate, -_load_cost(candidate, length)) for candidate in candidates]


def _scored(candidate: Candidate, score: float, expected_cached_tokens: int = 0) -> Candidate:
    # As `_replace` would, in a third of its time.
    return Candidate._make((*candidate[:-2], expected_cached_tokens, score))


def _best_first(candidates: list[Candidate], turn: int) -> list[Candidate]:
    # Ties rotate: with equal scores a fixed order would load the first worker only.
    count = max(1, len(candidates))
    order = sorted(
        range(len(candidates)), key=lambda i: (not candidates[i].ready, -candidates[i].score, (i - turn) % count)
    )
    return [candidates[i] for i in order]


def _session_number(session: bytes, worker: str) -> float:
    """Returns a number from 0 to 1 that follows from both names."""
    digest = blake2b(worker.encode(), key=blake2b(session).digest(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def _load_in_words(candidate: Candidate, new_tokens: int) -> str:
    if not candidate.ready:
        return "takes no requests"
    parts = [
        f"{candidate.pending_prompt_tokens} prompt tokens ahead",
        f"{candidate.running} of {candidate.max_running} running" if candidate.max_running else "",
        f"{candidate.queued} waiting",
    ]
    if candidate.free_kv_blocks >= 0:
        enough = "enough" if candidate.free_kv_blocks * candidate.block_tokens >= new_tokens else "too few"
        parts.append(f"{candidate.free_kv_blocks} of {candidate.total_kv_blocks} KV blocks free, {enough}")
    return ", ".join(part for part in parts if part)
