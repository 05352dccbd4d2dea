"""The simulated engine: `state` on the event loop's clock. Its answers are made up, and it says so.

What it answers, how long it takes and which failures can be injected is described in `state`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from qwenserve.worker.engine_interface import (
    Chunk,
    Deliver,
    EngineError,
    EngineInfo,
    EngineLoad,
    EngineRefusal,
    EngineRequest,
    Finish,
    FinishReason,
    Guide,
    GuideKind,
    KvEvent,
)
from qwenserve.worker.engines.simulated.state import Faults, SimulatedConfig, SimulatedState
from qwenserve.worker.guides.matcher import GuideError, GuideMatcher, GuideVocabulary

__all__ = ["Faults", "SimulatedConfig", "SimulatedEngine"]

# Named in errors and in WorkerInfo; goes up when the same configuration gives other answers or times.
_VERSION = "2"


class SimulatedEngine:
    """An `Engine` without a model.

    With `step_s` 0 it takes a step whenever the event loop comes round, and after each one waits for `room`: an
    engine without hardware has nothing else that keeps it from running far ahead of those who read.
    """

    def __init__(
        self,
        config: SimulatedConfig | None = None,
        vocabulary: GuideVocabulary | None = None,
        beside: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`vocabulary` are the ids of the configuration with their texts; None: there are no guides. `beside` is
        awaited for every step: other ranks that take it too.
        """
        self._beside = beside
        self._vocabulary = vocabulary
        # Requests whose guide is being compiled.
        self._compiling: dict[int, asyncio.Task[None]] = {}
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
        if self._beside is not None:
            await self._beside()
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
            tells_kv_events=True,
            approximate_fields={"priority": "requests are computed in the order in which they came"},
            guide_kinds=frozenset(GuideKind) if self._vocabulary is not None else frozenset(),
            simulated=True,
        )

    def submit(self, request: EngineRequest) -> None:
        """Queues a request for the next step. Raises EngineRefusal."""
        if self._dead or self._task is None:
            raise EngineRefusal("the engine is not running")
        if request.guide is None:
            self._state.submit(request)
            self._changed.set()
            return
        if self._vocabulary is None:
            raise EngineRefusal(f"the simulated engine cannot follow {request.guide.kind.name}", param="guide")
        self._state.check(request)
        task = asyncio.get_running_loop().create_task(self._compile(self._vocabulary, request, request.guide))
        self._compiling[request.key] = task

    def abort(self, key: int) -> None:
        """Ends a request soon; unknown keys are ignored."""
        compiling = self._compiling.pop(key, None)
        if compiling is not None:
            compiling.cancel()
            self._failed(key, "")
            return
        self._state.abort(key)
        self._changed.set()

    def load(self) -> EngineLoad:
        """Returns the load now."""
        load = self._state.load()
        return load._replace(running=load.running + len(self._compiling))

    def kv_events(self) -> Sequence[KvEvent]:
        """Returns and forgets the cache events."""
        return self._state.kv_events()

    async def stop(self) -> None:
        """Ends all requests and the clock."""
        if self._task is None:
            return
        for key in list(self._compiling):
            self.abort(key)
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait({task})
        self._state.inject(Faults())
        self._state.abort_all()
        last = self._state.step(asyncio.get_running_loop().time()).chunks
        if last and self._deliver is not None and not self._dead:
            self._deliver(last)
        self._dead = True

    async def _compile(self, vocabulary: GuideVocabulary, request: EngineRequest, guide: Guide) -> None:
        """Submits a request once its guide is compiled, which would hold up the others' tokens here."""

        def compiled() -> GuideMatcher:
            matcher = vocabulary.matcher(guide)
            matcher.replay(request.guided_so_far)
            return matcher

        try:
            matcher = await asyncio.to_thread(compiled)
        except GuideError as error:
            if self._compiling.pop(request.key, None) is not None:
                self._failed(request.key, str(error))
            return
        if self._compiling.pop(request.key, None) is not None:
            self._state.submit(request, matcher)
            self._changed.set()

    def _failed(self, key: int, error: str) -> None:
        """Ends a request that the state does not know, in a turn of its own."""
        self._state.end_early(Chunk(key, (), None, Finish(FinishReason.ABORTED, None, 0, error)))
        self._changed.set()

    async def _drive(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> None:
        try:
            error = await self._take_steps(deliver)
        except Exception as defect:
            error = EngineError(f"the simulated engine failed: {defect!r}")
        self._dead = True
        on_failure(error)

    async def _take_steps(self, deliver: Deliver) -> EngineError:
        """Takes steps until the engine dies; returns the cause."""
        loop = asyncio.get_running_loop()
        unpaced = self._config.step_s == 0
        while True:
            self._changed.clear()
            before = self._state.steps
            result = self._state.step(loop.time())
            if self._beside is not None and self._state.steps > before:
                await self._beside()
            if result.chunks:
                deliver(result.chunks)
            if result.died:
                return EngineError(f"the simulated engine {result.died}")
            if result.next_wake is None:
                await self._changed.wait()
            elif unpaced:
                # A turn for all other tasks, then the wait for readers that lag behind.
                await asyncio.sleep(0)
                if self._room is not None:
                    await self._room()
            elif result.next_wake > loop.time():
                timer = loop.call_at(result.next_wake, self._changed.set)
                await self._changed.wait()
                timer.cancel()
            else:
                await asyncio.sleep(0)
