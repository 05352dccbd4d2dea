"""Tensor parallelism over MPI ranks: the ids are those of one process, and a lost rank ends the job."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.engines.job import Job, job, left_behind

pytest.importorskip("torch", reason="torch is not installed (qwenserve[transformers])")
pytest.importorskip("mpi4py", reason="mpi4py is not installed (qwenserve[mpi])")

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
REFERENCE = json.loads((ROOT / "tests" / "fixtures" / "greedy_reference.json").read_text(encoding="utf-8"))["cases"]
SETTINGS = {
    "worker__engine": "transformers",
    "model__reference": ROOT / "models" / "qwen3-tiny",
    "worker__transformers__device": "cpu",
}


async def token_ids(call: Any) -> list[int]:
    """Reads the only answer of a session to its finish."""
    ids: list[int] = []
    while (message := await asyncio.wait_for(call.read(), 120)) is not grpc.aio.EOF:
        ids += message.token_ids
        if message.finishes:
            assert not message.finishes[0].error_message
            break
    return ids


async def a_long_answer(worker: Job) -> Any:
    call = await worker.ask(REFERENCE[0]["prompt_ids"], 900)
    for _ in range(3):
        message = await asyncio.wait_for(call.read(), 60)
        assert not message.finishes
    return call


async def test_two_ranks_give_the_ids_of_the_fixture_and_exit_in_order() -> None:
    before = left_behind()
    async with job(2, **SETTINGS) as worker:
        await worker.until_serving()
        calls = [await worker.ask(case["prompt_ids"], len(case["output_ids"])) for case in REFERENCE]
        for case, call in zip(REFERENCE, calls, strict=True):
            assert await token_ids(call) == case["output_ids"], case["name"]
            call.cancel()
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.exit_code() == 0, await worker.output()
        assert worker.left() == []
    assert left_behind() <= before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_rank_that_is_lost_in_a_collective_operation_ends_the_job(number: signal.Signals) -> None:
    before = left_behind()
    async with job(2, **SETTINGS) as worker:
        pids = await worker.until_ranks(2)
        await worker.until_serving()
        call = await a_long_answer(worker)
        os.kill(pids[1], number)
        since = time.monotonic()
        await worker.until_serving(False)
        print(f"not serving after {time.monotonic() - since:.1f} s")
        assert await worker.exit_code() > 0
        print(f"exit after {time.monotonic() - since:.1f} s")
        call.cancel()
        assert worker.left() == []
    assert left_behind() <= before


async def test_a_model_that_a_rank_cannot_load_ends_the_job_with_the_reason(tmp_path: Path) -> None:
    async with job(2, **{**SETTINGS, "model__reference": tmp_path}) as worker:
        assert await worker.exit_code() > 0
        assert str(tmp_path) in await worker.output()
        assert worker.left() == []
