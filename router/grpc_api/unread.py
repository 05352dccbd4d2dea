"""Bounds what a gRPC client may leave unread, in bytes and in time. Beyond them its call ends with an error.

gRPC itself has no such bound: a write to a client that does not read waits for ever, while its answers pile up.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import TypeVar

from qwenserve.runtime.errors import ServiceError, SlowReader

T = TypeVar("T")


class Unread:
    """Watches one call's writes. `end` may come from anywhere on the event loop."""

    def __init__(self, limit_bytes: int, limit_s: float) -> None:
        self._limit_bytes = limit_bytes
        self._limit_s = limit_s
        self._waiting = 0
        self._written = 0
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: ServiceError | None = None

    def add(self, size: int) -> ServiceError | None:
        """Counts what is to be written. Returns the error to end with where it is too much."""
        self._waiting += size
        if self._waiting <= self._limit_bytes:
            return None
        return SlowReader(f"the client left more than {self._limit_bytes} bytes unread; read faster")

    @property
    def waiting(self) -> int:
        """Bytes that have been added and not written."""
        return self._waiting

    def written(self, size: int) -> None:
        """Counts what has been written."""
        self._waiting -= size
        self._written += 1

    def end(self, error: ServiceError) -> None:
        """Ends `run` with an error, even in the middle of a write."""
        if self._error is None:
            self._error = error
            if self._task is not None:
                self._task.cancel()

    async def run(self, writing: Coroutine[object, object, T]) -> T:
        """Runs the call's writer. Raises what `end` was given, and SlowReader where one write exceeds the limit."""
        if self._failed():
            writing.close()
            raise self._told()
        task = self._task = asyncio.current_task()
        self._look_later(-1)
        try:
            return await writing
        except asyncio.CancelledError:
            if not self._failed():
                raise
            if sys.version_info >= (3, 11):
                assert task is not None
                task.uncancel()
            raise self._told() from None
        finally:
            self._task = None
            if self._timer is not None:
                self._timer.cancel()

    def _failed(self) -> bool:
        return self._error is not None

    def _told(self) -> ServiceError:
        assert self._error is not None
        return self._error

    def _look_later(self, written: int) -> None:
        # One repeating check instead of a timer for each write.
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._look, written)

    def _look(self, written: int) -> None:
        """Ends the call where something has been waiting since the last check and nothing was written."""
        if self._waiting and written == self._written:
            self.end(SlowReader(f"the client read nothing for {self._limit_s:g} seconds"))
        else:
            self._look_later(self._written if self._waiting else -1)
