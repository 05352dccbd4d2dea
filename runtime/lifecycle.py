"""A process's life: start, serve until a signal, drain, force.

The first SIGTERM or SIGINT asks for a drain, the second ends the drain. The exit code tells the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from qwenserve.runtime.deadlines import within
from qwenserve.runtime.grpc_wakeups import one_loop
from qwenserve.runtime.logs import EventLog

_log = EventLog("lifecycle")

T = TypeVar("T")

_M_ARENA_MAX = -8  # malloc.h


class Shutdown:
    """Two flags that signals set: `drain` first, then `force`."""

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        self.force = asyncio.Event()
        self.exit_code = 0

    def request(self) -> None:
        """One step further: drain, then force."""
        if self.drain.is_set():
            self.force.set()
        self.drain.set()

    def fail(self, exit_code: int = 1) -> None:
        """Drains because something broke; the process will exit with `exit_code`."""
        self.exit_code = exit_code
        self.drain.set()

    @contextlib.contextmanager
    def on_signals(self) -> Any:
        """Listens to SIGTERM and SIGINT inside the block."""
        with on_signals(lambda _: self.request(), signal.SIGTERM, signal.SIGINT):
            yield self

    async def notice(self, seconds: float) -> None:
        """Waits for `seconds`, or until a second signal forces."""
        with contextlib.suppress(asyncio.TimeoutError):
            await within(seconds, self.force.wait())

    async def drained(self, idle: Coroutine[Any, Any, None], timeout_s: float) -> bool:
        """Waits for `idle`, for a force, or for the time to pass. Returns whether `idle` came first."""
        waiting = asyncio.ensure_future(idle)
        forced = asyncio.ensure_future(self.force.wait())
        try:
            await asyncio.wait({waiting, forced}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            return waiting.done() and not waiting.cancelled() and waiting.exception() is None
        finally:
            for task in (waiting, forced):
                task.cancel()
            await asyncio.gather(waiting, forced, return_exceptions=True)


@contextlib.contextmanager
def on_signals(call: Callable[[int], object], *numbers: signal.Signals) -> Iterator[None]:
    """Makes signals call `call` with their number, and do nothing else, inside the block."""
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, call, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class TaskOwner:
    """Owns background tasks: closing it cancels them and waits. A task that fails on its own is logged at once."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Starts a task that ends, at the latest, with this owner."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task_failed", task=task.get_name(), exc_info=error)

    async def close(self) -> None:
        """Cancels what still runs and waits for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def use_one_malloc_arena() -> None:
    """Limits glibc's malloc to one arena, which all threads share. Call it before threads are started.

    What one thread frees is then used again by the others, which saves a router some 11 MiB. Only for processes whose
    threads mostly wait: threads that allocate at the same time would wait for each other.
    """
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def freeze_loaded_objects() -> None:
    """Takes everything loaded so far out of garbage collection. Call it once a process has loaded what it keeps.

    Later garbage collections skip all of that and are rare: requests free what they use by reference counting, and
    each collection walks what is open, which keeps everybody waiting for 15 to 25 ms where 350 answers are streamed.
    The threshold counts what is kept for good, such as cached tokens: at 20,000 a router that filled its caches
    collected every 20 seconds, and at the default of 700 for 4 % of its time. What loading left behind goes back to
    the system: a full-size tokenizer's files leave tens of megabytes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    # Only glibc has it; elsewhere the memory stays where it is.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def run(main: Coroutine[Any, Any, int]) -> int:
    """Runs a tier's main coroutine on uvloop where there is one; returns its exit code."""
    with one_loop():
        return _run(main)


def _run(main: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:  # not on this platform: the standard loop does the same, slower
        return asyncio.run(main)
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    else:
        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        try:
            asyncio.set_event_loop(loop)
            return loop.run_until_complete(main)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            loop.close()
