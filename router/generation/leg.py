"""One leg of a generation: a submission to one worker, and what is asked of it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from qwenserve.router.clients.worker_session import PromptLogprobStream, TokenStream
from qwenserve.router.generation.continuation import Continuations
from qwenserve.router.tracing.request_trace import LegTrace, RequestTrace
from qwenserve.runtime.errors import ServiceError
from qwenserve.runtime.values import frozen_value
from qwenserve.type.v1 import guide_pb2, sampling_pb2


class LegStream(TokenStream, Protocol):
    """Receives the ids of a leg: a generation."""

    def give_up(self, error: ServiceError) -> None:
        """No further leg can be started for this answer; nothing follows."""


class LegSource(Protocol):
    """Who gives a leg its ids: a worker's session, or what stands for one. See `router.clients.worker_session`."""

    @property
    def address(self) -> str:
        """What tells it from others."""

    @property
    def connection(self) -> int:
        """A number that changes with each reconnection: behind a new connection may be a new worker process."""

    @property
    def name(self) -> str:
        """The worker's name, for people."""

    @property
    def counts_from_offset(self) -> bool:
        """Whether penalties of an answer that goes on there count from `answer_offset`, as if it had not moved."""

    def submit(
        self,
        stream: LegStream,
        prompt_token_ids: Sequence[int],
        sampling: sampling_pb2.SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        deadline: float | None = None,
        cache_salt: str = "",
        answer_offset: int | None = None,
        prompt_logprobs: PromptLogprobStream | None = None,
        guide: guide_pb2.Guide | None = None,
        guide_offset: int | None = None,
        traceparent: str = "",
    ) -> int:
        """Gives ids to `stream`, none before this returns. Returns a handle. Raises Unavailable."""

    def abort(self, handle: int) -> None:
        """No more ids are wanted; the end still follows."""

    def forget(self, handle: int) -> None:
        """Nothing is wanted any more."""


LEAST_BIAS = -100.0

# Returns where the next leg comes from, for its prompt and without the addresses that were tried. Raises Unavailable.
Choose: TypeAlias = Callable[[Sequence[int], frozenset[str]], LegSource]


@frozen_value
class Placement:
    """How the legs of an answer reach workers. `choose` returns the best worker for a prompt, without those whose
    addresses it is given; it raises Unavailable. `deadline` is on `time.monotonic()`'s clock. Legs are noted in `trace`
    where there is one; else workers are given the caller's `traceparent`.
    """

    choose: Choose
    continuations: Continuations
    request_id: str
    priority: int
    cache_salt: str
    deadline: float
    # Whether the workers that it may reach know of `logit_bias`.
    knows_bias: bool = True
    traceparent: str = ""
    trace: RequestTrace | None = None


@frozen_value
class Leg:
    """A submission under way: who has it, its number there, the connection, and its first id's index in the answer."""

    session: LegSource
    handle: int
    connection: int
    first: int
    trace: LegTrace | None = None


class Excluded(NamedTuple):
    """A worker that must not have the next leg: it failed the last one. Not its next connection: that is another
    worker, restarted or restored. `full`: it only had no room.
    """

    session: LegSource
    connection: int
    full: bool

    @property
    def holds(self) -> bool:
        """Whether a session is still this worker on this connection."""
        return self.session.connection == self.connection


class NextLeg(NamedTuple):
    """How a generation goes on after a leg that was to end where it did: with these ids appended as if generated, and
    up to this number of ids more; None: to its end. `guided`: its guide begins behind what is appended.
    """

    appended: Sequence[int] = ()
    limit: int | None = None
    guided: bool = False


class LegGuide(NamedTuple):
    """What an answer is bound to: at once, or (`behind` not empty) from where one of these ids has been generated. The
    receiver is then asked how to go on, and up to there no end token comes.
    """

    guide: guide_pb2.Guide
    behind: frozenset[int] = frozenset()


def leg_sampling(
    sampling: sampling_pb2.SamplingParams, done: int, until: int | None = None
) -> sampling_pb2.SamplingParams:
    """Returns the parameters of a leg that begins after `done` ids of its answer; a first leg has `sampling` itself.

    `max_tokens` and `min_tokens` lose what is done; at least one token must be left. A sampled leg gets a seed of its
    own, made from the answer's seed and `done`: with the answer's seed again it would draw the numbers that have made
    the beginning of the answer once more, and what follows would depend on them. So an answer that goes on keeps its
    distribution, and repeats where it breaks at the same places. Greedy legs draw no numbers and keep the seed.

    `until`: the leg is to end after that many ids of the answer, which is before `max_tokens`. One more is asked for,
    to know what would have followed (`held_back`).
    """
    if not done and until is None:
        return sampling
    left = sampling_pb2.SamplingParams()
    left.CopyFrom(sampling)
    if left.HasField("max_tokens"):
        left.max_tokens -= done
    if left.min_tokens:
        left.min_tokens = max(0, left.min_tokens - done)
    if until is not None:
        left.max_tokens = until - done + 1
        left.min_tokens = min(left.min_tokens, left.max_tokens)
    if done and left.HasField("seed") and left.temperature > 0:
        left.seed = _mixed(left.seed, done)
    return left


def penalizes(sampling: sampling_pb2.SamplingParams) -> bool:
    """Whether what was generated before has a say in what comes."""
    return bool(sampling.presence_penalty or sampling.frequency_penalty) or sampling.repetition_penalty not in (
        0.0,
        1.0,
    )


def free_sampling(
    sampling: sampling_pb2.SamplingParams, behind: frozenset[int], end_ids: frozenset[int], *, bias: bool
) -> sampling_pb2.SamplingParams:
    """Returns the parameters of a leg that comes before a guide: it ends with one of `behind`, and where the engine
    knows of biases not with one of `end_ids`.
    """
    free = sampling_pb2.SamplingParams()
    free.CopyFrom(sampling)
    free.stop_token_ids.extend(sorted(behind.difference(free.stop_token_ids)))
    # It would keep the thought open for as long.
    free.min_tokens = 0
    if bias:
        for token in end_ids:
            free.logit_bias[token] = LEAST_BIAS
    return free


def _mixed(seed: int, done: int) -> int:
    digest = hashlib.blake2b(f"{seed} {done}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # a proto's int64 has a sign
