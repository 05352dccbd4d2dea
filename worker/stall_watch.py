"""Detects an engine that has work and makes no steps: the worker then says NOT_SERVING and ends its sessions.

A long prefill is no stall: each part of a prompt counts as a step. Once the engine goes on, the worker serves
again; otherwise whoever supervises it sees the health state and replaces it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from qwenserve.runtime.errors import WorkerLost
from qwenserve.runtime.logs import EventLog
from qwenserve.worker.dispatch import Dispatcher

_log = EventLog("worker")

_LOOK_S = 1.0
# How many checks of the engine there are in the time limit.
_LOOKS = 8


class StallWatch:
    """Watches the engine behind a dispatcher. `set_serving` is told when the worker can serve, and when it cannot."""

    def __init__(
        self, dispatcher: Dispatcher, timeout_s: float, set_serving: Callable[[bool], Awaitable[object]]
    ) -> None:
        self._dispatcher = dispatcher
        self._timeout_s = timeout_s
        self._set_serving = set_serving

    async def run(self) -> None:
        """Watches until cancelled.

        Time is counted in checks, not on a clock: if the whole process stood still, the engine is not to blame.
        """
        dispatcher = self._dispatcher
        look_s = min(_LOOK_S, self._timeout_s / _LOOKS)
        standing_s = 0.0
        steps = dispatcher.load.steps
        while True:
            was_computing = dispatcher.computing
            await asyncio.sleep(look_s)
            now = dispatcher.load.steps
            if now != steps or not (was_computing and dispatcher.computing):
                standing_s = 0.0
            else:
                standing_s += look_s
            steps = now
            if standing_s >= self._timeout_s:
                await self._until_it_goes_on(steps)
                standing_s = 0.0

    async def _until_it_goes_on(self, steps: int) -> None:
        """Serves nothing until the engine makes a step, or has no request left."""
        dispatcher = self._dispatcher
        _log.error("engine_stalled", without_a_step_s=self._timeout_s, steps=steps, remedy="restart this worker")
        dispatcher.stall(WorkerLost(f"the engine has made no step for {self._timeout_s:g} s; restart the worker"))
        await self._set_serving(False)
        while dispatcher.load.steps == steps and dispatcher.computing:  # noqa: ASYNC110  # an engine offers a count, and no event
            await asyncio.sleep(min(_LOOK_S, self._timeout_s / _LOOKS))
        _log.info("engine_goes_on")
        dispatcher.resume()
        await self._set_serving(True)
