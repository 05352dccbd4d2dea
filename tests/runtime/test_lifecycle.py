"""Shutdown in two stages; tasks that end with their owner."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import pytest

from qwenserve.runtime.lifecycle import Shutdown, TaskOwner, run


async def test_the_first_signal_drains_and_the_second_forces() -> None:
    shutdown = Shutdown()
    with shutdown.on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(shutdown.drain.wait(), 5)
        assert not shutdown.force.is_set()

        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(shutdown.force.wait(), 5)


async def test_a_drain_ends_when_idle_when_forced_or_when_time_is_up() -> None:
    async def idle() -> None:
        return None

    async def never() -> None:
        await asyncio.Event().wait()

    forced = Shutdown()
    forced.request()
    forced.request()

    assert await Shutdown().drained(idle(), 5)
    assert not await forced.drained(never(), 5)
    assert not await Shutdown().drained(never(), 0)


async def test_closing_an_owner_ends_its_tasks() -> None:
    owner = TaskOwner()
    task = owner.start(asyncio.Event().wait(), name="forever")

    await owner.close()

    assert task.cancelled()


async def test_a_task_that_fails_is_logged_though_nobody_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks() -> None:
        raise RuntimeError("broken")

    owner = TaskOwner()
    task = owner.start(breaks(), name="breaks")
    with caplog.at_level(logging.ERROR):
        await asyncio.wait({task}, timeout=5)
        await owner.close()

    (record,) = caplog.records
    assert (record.message, record.__dict__["fields"]) == ("task_failed", {"task": "breaks"})


def test_run_returns_the_exit_code() -> None:
    async def main() -> int:
        return 3

    assert run(main()) == 3
