"""For engines that answer each request with an asynchronous generator: a task for each, one delivery a turn.

What the generators yield in one turn of the event loop is delivered together: engines hand out the ids of one step to
all their generators at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable

from qwenserve.worker.engine_interface import Chunk, Deliver, EngineError, EngineRefusal, Finish, FinishReason

_log = logging.getLogger(__name__)


class RequestTasks:
    """The requests of one engine between its start and its stop. Used on the event loop only.

    `deliver` and `on_failure` are those of `Engine.start`. A generator yields chunks, a finish in the last one; where
    it raises EngineError the engine has died, where anything else, its own request fails.
    """

    def __init__(self, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> None:
        self._deliver = deliver
        self._on_failure = on_failure
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._pending: dict[int, Chunk] = {}
        self._failed = False
        self.deliveries = 0

    @property
    def running(self) -> int:
        """Requests without a finish."""
        return len(self._tasks)

    @property
    def failed(self) -> bool:
        """Whether the engine has died."""
        return self._failed

    def start(self, key: int, answer: AsyncGenerator[Chunk, None]) -> None:
        """Takes a request. Raises EngineRefusal for a key in use."""
        if key in self._tasks:
            raise EngineRefusal(f"key {key} is in use")
        task = asyncio.get_running_loop().create_task(self._follow(answer), name=f"request-{key}")
        self._tasks[key] = task
        # Also called for a task that is cancelled before it has begun.
        task.add_done_callback(lambda ended: self._ended(key, ended))

    def abort(self, key: int) -> None:
        """Asks a request to stop; unknown keys are ignored."""
        task = self._tasks.get(key)
        if task is not None:
            task.cancel()

    def fail(self, error: EngineError) -> None:
        """The engine is dead: reports it once, and delivers nothing any more."""
        if self._failed:
            return
        self._failed = True
        self._pending.clear()
        for task in self._tasks.values():
            task.cancel()
        self._on_failure(error)

    async def close(self, limit_s: float) -> None:
        """Aborts every request and delivers the finishes. Raises EngineError where one does not stop in time."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=limit_s)
            if left:
                raise EngineError(f"{len(left)} requests did not stop within {limit_s:.0f} s")
            await asyncio.sleep(0)  # the callbacks of the last ones
        self._flush()

    async def _follow(self, answer: AsyncGenerator[Chunk, None]) -> None:
        try:
            async for chunk in answer:
                self._put(chunk)
        finally:
            await answer.aclose()

    def _put(self, chunk: Chunk) -> None:
        if self._failed:
            return
        if chunk.key in self._pending:
            self._flush()
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending[chunk.key] = chunk
        if chunk.finish is not None:
            self._tasks.pop(chunk.key, None)

    def _flush(self) -> None:
        if self._pending:
            chunks = list(self._pending.values())
            self._pending.clear()
            self.deliveries += 1
            self._deliver(chunks)

    def _ended(self, key: int, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, EngineError):
            self.fail(error)
        if self._tasks.get(key) is not task:
            return  # it had its finish; the key may be another request's by now
        del self._tasks[key]
        if error is not None and not isinstance(error, EngineRefusal | EngineError):
            _log.error("a request broke in the engine", exc_info=error)
        text = "" if task.cancelled() else _text(error)
        self._put(Chunk(key, (), finish=Finish(FinishReason.ABORTED, error=text)))


def _text(error: BaseException | None) -> str:
    if error is None:
        return "the engine ended the answer without a word"
    return str(error) if isinstance(error, EngineRefusal) else f"the engine failed the request: {error}"
