"""Makes a worker NOT_SERVING while a rank says nothing, and ends it where a rank, or the launcher, is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from qwenserve.runtime.deadlines import within
from qwenserve.runtime.errors import WorkerLost
from qwenserve.runtime.logs import EventLog
from qwenserve.worker.dispatch import Dispatcher
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.mpi.job import JobDirectory
from qwenserve.worker.mpi.link import Hub
from qwenserve.worker.mpi.ranks import last_resort

_log = EventLog("mpi")

_LOOK_S = 1.0


class RankWatch:
    """Rank 0's eye on the others. `died` is told of a loss, in the event loop; silence is told once it serves."""

    def __init__(self, hub: Hub, job: JobDirectory | None, died: Callable[[EngineError], None]) -> None:
        self._hub = hub
        self._job = job
        self._died = died
        self._dispatcher: Dispatcher | None = None
        self._set_serving: Callable[[bool], Awaitable[object]]
        self._silent: set[int] = set()
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        hub.on_silent = self._on_silent
        hub.on_lost = self._on_lost

    def serve(self, dispatcher: Dispatcher, set_serving: Callable[[bool], Awaitable[object]]) -> None:
        """Says from now on, to both of these, when a rank is silent and when it goes on."""
        self._dispatcher = dispatcher
        self._set_serving = set_serving

    async def run(self) -> None:
        """Watches until cancelled."""
        if self._hub.lost:  # before anybody listened
            self._on_lost(self._hub.lost)
        was_silent = False
        while True:
            try:
                await within(_LOOK_S, self._changed.wait())
            except asyncio.TimeoutError:
                if self._job is not None and not self._job.launcher_alive:
                    self._on_lost("the process that started the ranks is gone")
                    return
            self._changed.clear()
            silent = bool(self._silent)
            if silent != was_silent and self._dispatcher is not None:
                was_silent = silent
                await self._turn(self._dispatcher, silent)

    async def _turn(self, dispatcher: Dispatcher, silent: bool) -> None:
        if silent:
            ranks = ", ".join(map(str, sorted(self._silent)))
            _log.error("rank_silent", ranks=ranks)
            dispatcher.stall(WorkerLost(f"rank {ranks} of the engine says nothing"))
        else:
            _log.info("rank_goes_on")
            dispatcher.resume()
        await self._set_serving(not silent)

    def _on_silent(self, rank: int, silent: bool) -> None:
        def note() -> None:
            (self._silent.add if silent else self._silent.discard)(rank)
            self._changed.set()

        self._loop.call_soon_threadsafe(note)

    def _on_lost(self, reason: str) -> None:
        last_resort()
        self._loop.call_soon_threadsafe(self._lose, reason)

    def _lose(self, reason: str) -> None:
        self._died(EngineError(reason))
