"""A worker of several ranks, whatever happens to one of them: real MPI, the simulated engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable

import grpc
import pytest

from tests.engines.job import Job, job, left_behind

pytest.importorskip("mpi4py", reason="mpi4py is not installed (qwenserve[mpi])")

pytestmark = pytest.mark.timeout(120)

Reach = Callable[[Job], Awaitable[object]]


async def _loading(worker: Job) -> None:
    """The ranks have found each other, and those other than rank 0 take their time."""
    await worker.until_listening()


async def _idle(worker: Job) -> None:
    await worker.until_serving()


async def _prefill(worker: Job) -> grpc.aio.StreamStreamCall:
    await worker.until_serving()
    call = await worker.ask([5] * 6_000, 10)  # 60 s
    await worker.until_running()
    return call


async def _decode(worker: Job) -> grpc.aio.StreamStreamCall:
    await worker.until_serving()
    call = await worker.ask([5, 6, 7], 8_000)  # 80 s
    for _ in range(3):
        message = await asyncio.wait_for(call.read(), 60)
        assert not message.finishes
    return call


async def _shutdown(worker: Job) -> grpc.aio.StreamStreamCall:
    call = await _decode(worker)
    worker.process.send_signal(signal.SIGTERM)
    await worker.until_serving(False)
    return call


PHASES = {"loading": _loading, "idle": _idle, "prefill": _prefill, "decode": _decode, "shutdown": _shutdown}
SETTINGS = {"worker__simulated__prefill_tokens_per_s": 100, "worker__simulated__prefill_chunk_tokens": 10}


async def ends_unavailable(call: grpc.aio.StreamStreamCall) -> None:
    """Reads a session to its end, after which its answers go on elsewhere."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    assert await call.code() is grpc.StatusCode.UNAVAILABLE


def report(name: str, since: float) -> None:
    print(f"{name} after {time.monotonic() - since:.1f} s")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("ranks", "number"), [(2, signal.SIGKILL), (4, signal.SIGKILL), (2, signal.SIGSTOP)])
async def test_a_lost_rank_ends_the_job_and_leaves_nothing(phase: str, ranks: int, number: signal.Signals) -> None:
    before = left_behind()
    loading = {"worker__simulated__load_s": 60} if phase == "loading" else {}
    async with job(ranks, **SETTINGS, **loading) as worker:
        pids = await worker.until_ranks(ranks)
        call = await PHASES[phase](worker)

        os.kill(pids[ranks - 1], number)
        since = time.monotonic()

        await worker.until_serving(False)
        report("not serving", since)
        if isinstance(call, grpc.aio.StreamStreamCall) and phase != "shutdown":
            await asyncio.wait_for(ends_unavailable(call), 60)
            report("session ended", since)
        assert await worker.exit_code() > 0
        report("exit", since)
        assert worker.left() == []
    assert left_behind() <= before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_without_rank_0_the_others_end_too(number: signal.Signals) -> None:
    before = left_behind()
    async with job(2) as worker:
        pids = await worker.until_ranks(2)
        await worker.until_serving()
        os.kill(pids[0], number)
        since = time.monotonic()
        assert await worker.exit_code() > 0
        report("exit", since)
        assert worker.left() == []
    assert left_behind() <= before


async def test_a_rank_that_goes_on_in_time_is_taken_back() -> None:
    async with job(2, worker__mpi__loss_timeout_s=60) as worker:
        pids = await worker.until_ranks(2)
        await worker.until_serving()
        os.kill(pids[1], signal.SIGSTOP)
        await worker.until_serving(False)
        os.kill(pids[1], signal.SIGCONT)
        await worker.until_serving()
        call = await worker.ask([5, 6, 7], 1)
        assert list((await asyncio.wait_for(call.read(), 60)).handles) == [1]
        call.cancel()


async def test_without_the_launcher_the_ranks_end() -> None:
    async with job(2) as worker:
        await worker.until_serving()
        worker.process.kill()
        since = time.monotonic()

        async def gone() -> None:
            while worker.left():  # noqa: ASYNC110  # other processes' state
                await asyncio.sleep(0.1)

        await asyncio.wait_for(gone(), 60)
        report("gone", since)


@pytest.mark.parametrize("ranks", [2, 4])
async def test_a_drain_lets_answers_end_and_exits_with_0(ranks: int) -> None:
    before = left_behind()
    async with job(ranks) as worker:
        await worker.until_serving()
        call = await worker.ask([5, 6, 7], 200)
        await asyncio.wait_for(call.read(), 60)
        worker.process.send_signal(signal.SIGTERM)
        counted = 0
        while (message := await asyncio.wait_for(call.read(), 60)) is not grpc.aio.EOF:
            counted += len(message.token_ids)
            if message.finishes:
                break
        assert counted > 100  # of 200, less those of the first message
        await call.done_writing()
        assert await worker.exit_code() == 0, await worker.output()
        assert worker.left() == []
    assert left_behind() <= before


async def test_a_job_that_is_told_to_stop_while_it_loads_leaves_nothing() -> None:
    before = left_behind()
    async with job(2, worker__simulated__load_s=600) as worker:
        pids = await worker.until_ranks(2)
        os.kill(pids[1], signal.SIGSTOP)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.exit_code() == 0
        assert worker.left() == []
    assert left_behind() <= before


async def test_a_start_that_takes_too_long_ends_with_the_reason() -> None:
    async with job(2, worker__simulated__load_s=600, worker__mpi__start_timeout_s=2) as worker:
        assert await worker.exit_code() > 0
        output = await worker.output()
        assert "all ranks to load the model" in output
        assert "worker.mpi.start_timeout_s" in output
        assert worker.left() == []
