"""One engine under many tests: engines that take half a minute to load are not loaded for each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from qwenserve.worker.engine_interface import (
    Chunk,
    Deliver,
    Engine,
    EngineError,
    EngineInfo,
    EngineLoad,
    EngineRequest,
    KvEvent,
)


class SharedEngine:
    """An engine that is started once. `start` attaches a test to it, with an empty prefix cache; `stop` aborts what
    the test left and detaches it.
    """

    def __init__(self, engine: Engine, forget_prefixes: Callable[[], Awaitable[None]]) -> None:
        self._engine = engine
        self._forget_prefixes = forget_prefixes
        self._info: EngineInfo | None = None
        self._deliver: Deliver | None = None
        self._on_failure: Callable[[EngineError], None] | None = None
        self._running: set[int] = set()
        self._changed = asyncio.Event()

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        if self._info is None:
            self._info = await self._engine.start(self._hand_over, self._fail)
        await self._forget_prefixes()
        self._deliver, self._on_failure = deliver, on_failure
        return self._info

    def submit(self, request: EngineRequest) -> None:
        self._engine.submit(request)
        self._running.add(request.key)

    def abort(self, key: int) -> None:
        self._engine.abort(key)

    def load(self) -> EngineLoad:
        return self._engine.load()

    def kv_events(self) -> Sequence[KvEvent]:
        return self._engine.kv_events()

    def pace_with(self, room: Callable[[], Awaitable[None]]) -> None:
        self._engine.pace_with(room)

    async def stop(self) -> None:
        for key in list(self._running):
            self._engine.abort(key)
        while self._running:
            self._changed.clear()
            await self._changed.wait()
        self._deliver = None

    def _hand_over(self, chunks: Sequence[Chunk]) -> None:
        self._running -= {chunk.key for chunk in chunks if chunk.finish is not None}
        self._changed.set()
        if self._deliver is not None:
            self._deliver(chunks)

    def _fail(self, error: EngineError) -> None:
        self._running.clear()
        self._changed.set()
        if self._on_failure is not None:
            self._on_failure(error)
