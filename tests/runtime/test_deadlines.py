"""Waiting with a limit: the result, the timeout, or the cancellation, and never one for the other."""

from __future__ import annotations

import asyncio
import time

import pytest

from qwenserve.runtime.deadlines import within

LONG = 60.0


async def test_what_ends_in_time_is_returned() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await within(LONG, work()) == "done"


@pytest.mark.parametrize("limit", [0.0, -1.0, 0.001])
async def test_what_does_not_end_in_time_is_cancelled(limit: float) -> None:
    never = asyncio.get_running_loop().create_future()

    with pytest.raises(asyncio.TimeoutError):
        await within(limit, never)

    assert never.cancelled()
    await asyncio.sleep(0)  # the caller itself is not cancelled


async def test_an_error_of_the_work_is_raised() -> None:
    async def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await within(LONG, fails())


@pytest.mark.parametrize("first", ["result", "cancel"])
async def test_a_cancellation_in_the_turn_that_completes_the_work_is_not_lost(first: str) -> None:
    """The caller went away just as the work was done: what follows must not be done for nobody."""
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.get_running_loop().create_task(within(LONG, work))
    await asyncio.sleep(0)

    if first == "result":
        work.set_result("done")
        waiting.cancel()
    else:
        waiting.cancel()
        if not work.done():
            work.set_result("done")

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_time_begins_again_where_the_loop_was_held_up() -> None:
    """So often as is said, and not where it was not."""
    loop = asyncio.get_running_loop()
    work: asyncio.Future[str] = loop.create_future()
    waiting = loop.create_task(within(0.3, work, again=1))
    await asyncio.sleep(0)
    time.sleep(0.4)  # noqa: ASYNC251  # what holds the loop up is the point
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    work.set_result("done")
    assert await waiting == "done"

    never: asyncio.Future[str] = loop.create_future()
    waiting = loop.create_task(within(0.05, never, again=1))
    with pytest.raises(asyncio.TimeoutError):
        await waiting
