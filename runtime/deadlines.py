"""Waiting with a limit, without losing a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

# A timer that is so late was not served in time: something held the event loop up.
HELD_UP_S = 0.02
# How often a store's time begins again for that.
HELD_UP_AGAIN = 3


async def within(limit_s: float, work: Awaitable[T], *, again: int = 0) -> T:
    """Returns what `work` returns. Raises asyncio.TimeoutError after `limit_s`, with `work` cancelled.

    Where the event loop was itself held up meanwhile, the answer may have come long since and only waits to be read:
    the time then begins again, `again` times at most.

    Unlike `asyncio.wait_for` before Python 3.12 it never swallows a cancellation: there, a caller cancelled in the turn
    of the event loop in which `work` completes goes on as if nothing had happened. And `work` runs in the task that
    waits, not in one of its own.
    """
    task = asyncio.current_task()
    assert task is not None
    expired = False

    loop = asyncio.get_running_loop()
    left = again
    timer: asyncio.TimerHandle

    def expire() -> None:
        nonlocal expired, left, timer
        if left > 0 and loop.time() - timer.when() > HELD_UP_S:
            left -= 1
            timer = loop.call_later(limit_s, expire)
            return
        expired = True
        task.cancel()

    timer = loop.call_later(max(0.0, limit_s), expire)
    try:
        return await work
    except asyncio.CancelledError:
        # Cancelled by the timer alone? Python 3.10 cannot tell; there a caller's cancellation in the same turn becomes
        # the timeout, which ends the call as well.
        if expired and (not hasattr(task, "uncancel") or task.uncancel() == 0):
            raise asyncio.TimeoutError from None
        raise
    finally:
        timer.cancel()
