"""Continues answers that a worker left unfinished: where, when, and how long an answer waits for that.

When a worker is lost, drains, or cuts a session off, all that it was generating breaks at once. Each generation that
broke is handed to the router's one `Continuations`, which starts its next leg at once if it can. What it cannot start
waits:

- for a worker, where none is ready (with one worker: until it has been restarted), up to `wait_s`;
- for its turn, where others that broke are still being computed again. Each has to be read anew by another worker,
  prompt and answer so far; all at the same time would hold up those that were running there. So only `prefill_tokens`
  of them are under way at a time, first come first served; one leaves that number with its first new id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from qwenserve.runtime.errors import ServiceError, WorkerLost

# While something waits, how often we check whether a worker is ready again.
_LOOK_S = 0.1
_RETRY_AFTER_S = 5.0
# After so many legs that no worker accepted, the rest wait for the next check: each costs a choice among the workers.
_MOST_REFUSED = 64


class ContinuationLimits(NamedTuple):
    """`wait_s`: how long an answer waits for a worker. `legs`: how often one answer goes on at most; 0: never.
    `prefill_tokens`: tokens of answers that go on, computed again at a time.
    """

    wait_s: float = 30.0
    legs: int = 32
    prefill_tokens: int = 65_536


class Continuable(Protocol):
    """A generation without a leg."""

    @property
    def tokens_so_far(self) -> int:
        """Tokens of prompt and answer: what the next leg has to read."""

    def start_leg(self) -> None:
        """Starts the next leg. Raises ServiceError where no worker takes it now."""

    def give_up(self, error: ServiceError) -> None:
        """Ends it with an error."""

    def defect(self, error: Exception) -> None:
        """Ends it for a defect of ours."""


class _Wait(NamedTuple):
    error: ServiceError
    since: float
    until: float


class Continuations:
    """Generations between two legs, and those whose next leg has brought nothing yet. Synchronous, but for one timer
    while something waits. `on_resumed` is told how long each pause was.
    """

    def __init__(self, limits: ContinuationLimits, on_resumed: Callable[[float], None] = lambda _: None) -> None:
        self.limits = limits
        self._on_resumed = on_resumed
        self._waiting: dict[Continuable, _Wait] = {}
        # Legs without an id yet: their tokens, and when the one before them broke.
        self._reading: dict[Continuable, tuple[int, float]] = {}
        self._reading_tokens = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Generations that have no leg now."""
        return len(self._waiting)

    def go_on(self, generation: Continuable, error: ServiceError, *, patient: bool) -> None:
        """Starts the next leg of a generation that `error` broke, now or as soon as it can be. Without `patient` it
        is given up where no worker takes it now.
        """
        now = time.monotonic()
        wait = _Wait(error, now, now + self.limits.wait_s)
        if patient:
            self._waiting[generation] = wait
            self._advance()
        elif not self._started(generation, wait):
            generation.give_up(error)

    def resumed(self, generation: Continuable, now: float) -> None:
        """The first new id of a generation came at `now`."""
        reading = self._reading.get(generation)
        if reading is not None:
            self._on_resumed(now - reading[1])
        self.forget(generation)

    def forget(self, generation: Continuable) -> None:
        """The generation has ended, or its leg has. Unknown ones are ignored."""
        self._waiting.pop(generation, None)
        tokens, _ = self._reading.pop(generation, (0, 0.0))
        self._reading_tokens -= tokens
        if self._waiting:
            self._look_in(0.0)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _advance(self) -> None:
        now = time.monotonic()
        refused = 0
        for generation, wait in list(self._waiting.items()):
            if generation not in self._waiting:
                continue  # removed meanwhile: another choice of the same answer was given up, and this one with it
            tried = refused < _MOST_REFUSED and self._has_turn(generation)
            if tried:
                if self._started(generation, wait):
                    continue
                refused += 1
            if now >= wait.until:
                self._waiting.pop(generation, None)
                generation.give_up(self._waited_in_vain(wait.error))
            elif tried:
                # Moved to the end of the queue, so that the next check begins with those that this one does not reach.
                self._waiting[generation] = self._waiting.pop(generation)
        if self._waiting:
            self._look_in(_LOOK_S)

    def _has_turn(self, generation: Continuable) -> bool:
        tokens = generation.tokens_so_far
        return not self._reading or self._reading_tokens + tokens <= self.limits.prefill_tokens

    def _started(self, generation: Continuable, wait: _Wait) -> bool:
        """Starts a generation's leg. False where no worker takes it."""
        tokens = generation.tokens_so_far
        try:
            generation.start_leg()
        except ServiceError:
            return False
        except Exception as defect:  # of one request: it must not leave the others waiting for ever
            self._waiting.pop(generation, None)
            generation.defect(defect)
            return True
        self._waiting.pop(generation, None)
        self._reading[generation] = (tokens, wait.since)
        self._reading_tokens += tokens
        return True

    def _waited_in_vain(self, error: ServiceError) -> ServiceError:
        text = f"{error.message}; no worker could go on with the answer within {self.limits.wait_s:g} s"
        return WorkerLost(text, retry_after_s=_RETRY_AFTER_S)

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        self._advance()
