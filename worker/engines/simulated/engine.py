"""The simulated engine: `simulated_state` on the event loop's clock. Its answers are made up, and it says so.

What it answers, how long it takes and what can go wrong on demand is told in `simulated_state`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from qwenserve.worker.engine_interface import (
    Deliver,
    EngineError,
    EngineInfo,
    EngineLoad,
    EngineRefusal,
    EngineRequest,
    KvEvent,
)
from qwenserve.worker.engines.simulated.state import Faults, SimulatedConfig, SimulatedState

__all__ = ["Faults", "SimulatedConfig", "SimulatedEngine"]

# Named in errors and in WorkerInfo; goes up when the same configuration gives other answers or times.
_VERSION = "2"


class SimulatedEngine:
    """An `Engine` without a model.

    With `step_s` 0 it takes a step whenever the event loop comes round, and after each one waits for `room`: an
    engine without hardware has nothing else that keeps it from running far ahead of those who read.
    """

    def __init__(self, config: SimulatedConfig | None = None) -> None:
        self._config = config or SimulatedConfig()
        self._state = SimulatedState(self._config)
        self._changed = asyncio.Event()
        self._deliver: Deliver | None = None
        self._task: asyncio.Task[None] | None = None
        self._dead = False
        self._room: Callable[[], Awaitable[None]] | None = None

    def pace_with(self, room: Callable[[], Awaitable[None]]) -> None:
        """Sets what is awaited between steps that take no time."""
        self._room = room

    def inject(self, faults: Faults) -> None:
        """Shows these failures from now on."""
        self._state.inject(faults)
        self._changed.set()

    @property
    def steps(self) -> int:
        """Steps taken since the start."""
        return self._state.steps

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        """Starts the clock."""
        config = self._config
        self._deliver = deliver
        self._task = asyncio.get_running_loop().create_task(self._drive(deliver, on_failure), name="simulated-engine")
        return EngineInfo(
            name="simulated",
            version=_VERSION,
            max_model_len=config.window,
            vocab_size=config.vocab_size,
            eos_token_ids=frozenset(config.eos_token_ids),
            max_running=config.max_running,
            kv_block_tokens=config.kv_block_tokens,
            approximate_fields={"priority": "requests are computed in the order in which they came"},
            simulated=True,
        )

    def submit(self, request: EngineRequest) -> None:
        """Queues a request for the next step. Raises EngineRefusal."""
        if self._dead or self._task is None:
            raise EngineRefusal("the engine is not running")
        self._state.submit(request)
        self._changed.set()

    def abort(self, key: int) -> None:
        """Ends a request soon; unknown keys are ignored."""
        self._state.abort(key)
        self._changed.set()

    def load(self) -> EngineLoad:
        """Returns the load now."""
        return self._state.load()

    def kv_events(self) -> Sequence[KvEvent]:
        """Returns and forgets the cache events."""
        return self._state.kv_events()

    async def stop(self) -> None:
        """Ends all requests and the clock."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait({task})
        self._state.inject(Faults())
        self._state.abort_all()
        last = self._state.step(asyncio.get_running_loop().time()).chunks
        if last and self._deliver is not None and not self._dead:
            self._deliver(last)
        self._dead = True

    async def _drive(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> None:
        try:
            error = await self._take_steps(deliver)
        except Exception as defect:
            error = EngineError(f"the simulated engine failed: {defect!r}")
        self._dead = True
        on_failure(error)

    async def _take_steps(self, deliver: Deliver) -> EngineError:
        """Takes steps until the engine dies; returns what of."""
        loop = asyncio.get_running_loop()
        unpaced = self._config.step_s == 0
        while True:
            self._changed.clear()
            result = self._state.step(loop.time())
            if result.chunks:
                deliver(result.chunks)
            if result.died:
                return EngineError(f"the simulated engine {result.died}")
            if result.next_wake is None:
                await self._changed.wait()
            elif unpaced:
                # Everybody else's turn, then the wait for those who are behind.
                await asyncio.sleep(0)
                if self._room is not None:
                    await self._room()
            elif result.next_wake > loop.time():
                timer = loop.call_at(result.next_wake, self._changed.set)
                await self._changed.wait()
                timer.cancel()
            else:
                await asyncio.sleep(0)
