"""Tensor parallelism over MPI and NCCL: `python -m tests.gpu.check_ranks`, one line of JSON a fact. Needs two GPUs.

A `transformers` worker of two ranks: greedy ids of all fixture cases; then a rank killed, a rank stopped, and rank 0
killed, each with an answer under way.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time

from tests.engines.job import job, left_behind
from tests.engines.test_transformers_ranks import a_long_answer, token_ids
from tests.gpu.engines import CASES, MODEL
from tests.gpu.report import say

SETTINGS = {
    "worker__engine": "transformers",
    "model__reference": MODEL,
    "worker__transformers__device": "cuda",
}


def on_cards() -> list[str]:
    """The processes that have memory of a GPU."""
    query = ["nvidia-smi", "--query-compute-apps=pid,gpu_uuid,used_memory", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()


async def greedy() -> None:
    before = left_behind()
    began = time.monotonic()
    async with job(2, **SETTINGS) as worker:
        await worker.until_serving()
        ranks = worker.ranks()
        say("serving", took_s=round(time.monotonic() - began, 1), ranks=ranks, on_cards=on_cards())
        for label in ("one at a time", "again, cached"):
            equal = 0
            began = time.monotonic()
            for case in CASES:
                call = await worker.ask(case["prompt_ids"], len(case["output_ids"]))
                equal += await token_ids(call) == case["output_ids"]
                call.cancel()
            took = round(time.monotonic() - began, 1)
            say(f"greedy over two ranks, {label}", equal=equal, of=len(CASES), took_s=took)
        calls = [await worker.ask(case["prompt_ids"], len(case["output_ids"])) for case in CASES]
        equal = sum([await token_ids(call) == case["output_ids"] for case, call in zip(CASES, calls, strict=True)])
        say("greedy over two ranks, together", equal=equal, of=len(CASES))
        for call in calls:
            call.cancel()
        began = time.monotonic()
        worker.process.send_signal(signal.SIGTERM)
        code = await worker.exit_code()
        took = round(time.monotonic() - began, 1)
        say("told to stop", code=code, took_s=took, left=worker.left(), shared=sorted(left_behind() - before))


async def lost(rank: int, number: signal.Signals) -> None:
    before = left_behind()
    async with job(2, **SETTINGS) as worker:
        ranks = await worker.until_ranks(2)
        await worker.until_serving()
        call = await a_long_answer(worker)
        os.kill(ranks[rank], number)
        began = time.monotonic()
        await worker.until_serving(False)
        not_serving = round(time.monotonic() - began, 2)
        code = await worker.exit_code()
        exited = round(time.monotonic() - began, 2)
        call.cancel()
        say(
            "rank lost",
            rank=rank,
            by=number.name,
            not_serving_after_s=not_serving,
            exit_code=code,
            exited_after_s=exited,
            left=worker.left(),
            shared=sorted(left_behind() - before),
        )


async def run() -> None:
    for step in (
        greedy(),
        lost(1, signal.SIGKILL),
        lost(1, signal.SIGSTOP),
        lost(0, signal.SIGKILL),
    ):
        try:
            await step
        except Exception as error:  # noqa: PERF203  # the others are looked at all the same
            say("FAILED", step=step.__name__, error=f"{type(error).__name__}: {str(error)[-1500:]}")


if __name__ == "__main__":
    asyncio.run(run())
