"""A worker whose cache changes at a given pace, without an engine that computes: only the news of it cost anything."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from qwenserve.bench.tier.processes import free_ports
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.grpc_setup import make_server
from qwenserve.worker.dispatch import Dispatcher, DispatchLimits
from qwenserve.worker.engine_interface import Deliver, EngineError, EngineInfo, EngineLoad, EngineRequest, KvEvent
from qwenserve.worker.service import WorkerIdentity, WorkerService
from qwenserve.worker.v1 import worker_pb2_grpc

MODEL = "m"
BLOCK_TOKENS = 16
_STEP_S = 0.02


class ChurningCache:
    """Blocks that come and go, `blocks_per_s` each way; `size` of them are there. Hashes are made up."""

    def __init__(self, number: int, blocks_per_s: float, size: int) -> None:
        self._next = number << 40
        self._per_s = blocks_per_s
        self._held = deque(range(self._next, self._next + size))
        self._next += size
        self._events = [KvEvent(0, list(self._held), ())]
        self._sequence = 1
        self._owed = 0.0
        # When each block that came lately was stored, on `time.monotonic()`'s clock.
        self.stored_at: dict[int, float] = {}

    def step(self, passed_s: float) -> None:
        """Lets so much time pass."""
        self._owed += passed_s * self._per_s
        count = int(self._owed)
        self._owed -= count
        if not count:
            return
        stored = list(range(self._next, self._next + count))
        self._next += count
        removed = [self._held.popleft() for _ in range(count)]
        self._held.extend(stored)
        now = time.monotonic()
        for value in removed:
            self.stored_at.pop(value, None)
        self.stored_at.update(dict.fromkeys(stored, now))
        self._events.append(KvEvent(self._sequence, stored, removed))
        self._sequence += 1

    def fetch(self) -> Sequence[KvEvent]:
        """Returns the events since the last call."""
        events, self._events = self._events, []
        return events


class ChurningEngine:
    """An `Engine` with a cache that changes and nothing else: it takes no requests."""

    def __init__(self, cache: ChurningCache) -> None:
        self.cache = cache

    async def start(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> EngineInfo:
        """Says what it is."""
        return EngineInfo(
            "churning", "1", 40_960, 151_936, frozenset({1}), 64, kv_block_tokens=BLOCK_TOKENS, tells_kv_events=True
        )

    def submit(self, request: EngineRequest) -> None:
        """Is never called: nobody has requests here."""
        raise AssertionError("nobody has requests here")

    def abort(self, key: int) -> None:
        """There are no requests."""

    def load(self) -> EngineLoad:
        """Returns that nothing runs."""
        return EngineLoad(0, 0, len(self.cache.stored_at), 0)

    def pace_with(self, room: Callable[[], Awaitable[None]]) -> None:
        """Ignores it."""

    def kv_events(self) -> Sequence[KvEvent]:
        """Returns what has changed."""
        return self.cache.fetch()

    async def stop(self) -> None:
        """Has nothing to stop."""


@contextlib.asynccontextmanager
async def churning_worker(cache: ChurningCache, name: str) -> AsyncIterator[str]:
    """A worker's service with a cache that changes, while the block lasts; gives its address."""
    engine = ChurningEngine(cache)
    dispatcher = Dispatcher(engine, DispatchLimits(64, 64))
    info = await engine.start(dispatcher.deliver, dispatcher.fail)
    dispatcher.started(info)
    service = WorkerService()
    service.ready(dispatcher, info, WorkerIdentity(name, MODEL, "", 64))
    server = make_server(GrpcConfig())
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(service, server)
    (port,) = free_ports(1)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()

    async def live() -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(_STEP_S)
            now = time.monotonic()
            cache.step(now - before)
            before = now
            dispatcher.cache.stepped()

    task = asyncio.ensure_future(live())
    try:
        yield f"127.0.0.1:{port}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        dispatcher.end_sessions()
        await server.stop(None)
