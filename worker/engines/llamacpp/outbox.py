"""Chunks on their way from the engine's threads to the event loop: a step's chunks become one hand-over."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from qwenserve.worker.engine_interface import Chunk, EngineError

# How long a step's first chunk waits for the others, at most. They follow within milliseconds; the limit only
# counts where a request that moved in the last step does not move in this one.
_GATHER_S = 0.005

HandOver = Callable[[list[Chunk], "EngineError | None"], None]


class Outbox:
    """Collects chunks from any thread and hands them over on the loop, a list at a time.

    The threads of one step report one after the other. The first wakes the loop, which waits until as many
    have reported as moved in the step before; the last of them wakes it again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, hand_over: HandOver) -> None:
        self._loop = loop
        self._hand_over = hand_over
        self._waiting: deque[Chunk] = deque()
        self._failure: EngineError | None = None
        self._expected = 0
        self._timer: asyncio.TimerHandle | None = None
        # Both are set and cleared on either side without a lock. Reading a stale value costs a wake-up that
        # finds nothing, or a wait for the timer; no order of events leaves a chunk without a wake-up to come.
        self._woken = False
        self._gathering = False
        # True once the loop is gone: there is nobody left to generate for.
        self.closed = False

    def fail(self, error: EngineError) -> None:
        """Passes a failure of the engine on with the next chunks. Called from any thread."""
        self._failure = error

    def put(self, chunk: Chunk) -> None:
        """Called from any thread."""
        self._waiting.append(chunk)
        if not self._woken:
            self._woken = True
            self.call(self._wake)
        elif self._gathering and len(self._waiting) >= self._expected:
            self._gathering = False
            self.call(self._drain)

    def call(self, callback: Callable[[], None]) -> None:
        """Runs something on the loop; after its end nothing. Called from any thread."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            self.closed = True

    def _wake(self) -> None:
        self._gathering = True
        if len(self._waiting) >= self._expected:
            self._drain()
        elif self._timer is None:
            self._timer = self._loop.call_later(_GATHER_S, self._drain)

    def _drain(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._woken = self._gathering = False
        by_key: dict[int, Chunk] = {}
        while self._waiting:
            chunk = self._waiting.popleft()
            before = by_key.get(chunk.key)
            by_key[chunk.key] = chunk if before is None else _joined(before, chunk)
        if by_key:
            self._expected = sum(chunk.finish is None for chunk in by_key.values())
            self._hand_over(list(by_key.values()), self._failure)


def _joined(first: Chunk, second: Chunk) -> Chunk:
    logprobs = None
    if first.logprobs is not None or second.logprobs is not None:
        logprobs = [*(first.logprobs or ()), *(second.logprobs or ())]
    return Chunk(first.key, [*first.token_ids, *second.token_ids], logprobs, second.finish)
