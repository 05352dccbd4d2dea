"""A leg that is to end at a certain id, and what the engine would have said there.

Where a thought's budget is spent, only the next id shows whether the thought is cut or has just ended: is it the
closing tag? So the engine is asked for one id more than the leg may bring, and that one is held back until the leg has
ended. Then it is the answer's if it belongs there, and else is dropped, as if it had not been generated. It costs one
step, and only answers with a budget have this between them and their session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qwenserve.router.generation.leg import LegStream
from qwenserve.runtime.errors import ServiceError
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2


class Judge(LegStream, Protocol):
    """The generation that a leg belongs to."""

    def keeps(self, token_id: int) -> bool:
        """Whether an id that came after the leg's last one is the answer's."""


class HeldBack:
    """Gives a generation the ids of a leg, and the one after its first `most` ids only where it belongs to the answer.

    It does where the engine ended there by itself, or the generation keeps it.
    """

    __slots__ = ("_held", "_left", "_logprobs", "_now", "generation")

    def __init__(self, generation: Judge, most: int) -> None:
        self.generation = generation
        self._left = most
        self._held: int | None = None
        self._logprobs: Sequence[sampling_pb2.TokenLogprob] = ()
        self._now = 0.0

    @property
    def last_token(self) -> float:
        """When the generation's last id came."""
        return self.generation.last_token

    def token(self, token_id: int, now: float) -> None:
        """Takes one new id."""
        if self._left:
            self._left -= 1
            self.generation.token(token_id, now)
        else:
            self._held, self._now = token_id, now

    def tokens(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob], now: float) -> None:
        """Takes new ids."""
        left = self._left
        if len(ids) > left:
            self._held, self._logprobs, self._now = ids[left], logprobs[left : left + 1], now
            ids, logprobs = ids[:left], logprobs[:left]
        self._left = left - len(ids)
        if ids:
            self.generation.tokens(ids, logprobs, now)

    def finishing(self, finish: worker_pb2.Finish) -> None:
        """The end is in the message being read."""
        self.generation.finishing(finish)

    def finished(self, finish: worker_pb2.Finish) -> None:
        """The worker ended the leg."""
        self._settle(by_itself=finish.reason == sampling_pb2.FINISH_REASON_STOP and not finish.error_reason)
        self.generation.finished(finish)

    def lost(self, error: ServiceError) -> None:
        """The session broke."""
        self._settle()
        self.generation.lost(error)

    def give_up(self, error: ServiceError) -> None:
        """No further leg can be started."""
        self.generation.give_up(error)

    def _settle(self, *, by_itself: bool = False) -> None:
        held, self._held = self._held, None
        if held is not None and (by_itself or self.generation.keeps(held)):
            self.generation.tokens((held,), self._logprobs, self._now)
