"""Answers prompts greedily with the project's embedded engine: no torch; weights in float32, the cache in float16."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import NamedTuple

from qwenserve.worker.engine_interface import Chunk, EngineError, EngineRequest, Sampling
from qwenserve.worker.engines.llamacpp.config import LlamaCppConfig, llamacpp_environment
from qwenserve.worker.engines.llamacpp.engine import LlamaCppEngine
from qwenserve.worker.engines.llamacpp.gguf_files import WeightType, engine_file
from qwenserve.worker.engines.llamacpp.machine import look_at_machine

RUNNING = 8
MOST_PROCESSES = 4
_LOOK_S = 0.5


class _Work(NamedTuple):
    """What all processes do together. `order` has the indices of `prompts`, `taken` says how many of it have been
    begun, and `done` how many are answered."""

    gguf: Path
    prompts: Sequence[Sequence[int]]
    new_tokens: Sequence[int]
    order: Sequence[int]
    taken: Synchronized[int]
    done: Synchronized[int]


def answer(
    folder: Path, prompts: Sequence[Sequence[int]], new_tokens: Sequence[int], progress: Callable[[int], None]
) -> list[list[int]]:
    """Returns the reply ids of each prompt, without end tokens. `progress` is told how many are done, now and then.

    Uses a process for each core: the model is so small that two threads wait for each other more than they compute.
    """
    os.environ.update(llamacpp_environment())
    context = get_context("spawn")
    # A step costs what its longest context costs, so prompts of like length go together; long replies come first.
    order = sorted(range(len(prompts)), key=lambda i: (-new_tokens[i], len(prompts[i])))
    gguf = engine_file(folder, WeightType.F32)
    work = _Work(gguf, prompts, new_tokens, order, context.Value("i", 0), context.Value("i", 0))
    processes = min(look_at_machine().cores, MOST_PROCESSES)
    replies: list[list[int]] = [[] for _ in prompts]
    with ProcessPoolExecutor(processes, context, _begin, (work,)) as pool:
        parts = [pool.submit(_part) for _ in range(processes)]
        told, busy = 0, True
        while busy:
            busy = bool(wait(parts, _LOOK_S).not_done)
            if work.done.value > told:
                told = work.done.value
                progress(told)
        for part in parts:
            for index, reply in part.result().items():
                replies[index] = reply
    return replies


_work: _Work


def _begin(work: _Work) -> None:
    global _work
    _work = work


def _part() -> dict[int, list[int]]:
    return asyncio.run(_answer(_work))


def _next(work: _Work) -> int | None:
    with work.taken.get_lock():
        position = work.taken.value
        work.taken.value += 1
    return work.order[position] if position < len(work.order) else None


async def _answer(work: _Work) -> dict[int, list[int]]:
    """Answers prompts until none is left."""
    engine = LlamaCppEngine(LlamaCppConfig(work.gguf, max_running=RUNNING, batch_tokens=512, threads=1))
    replies: dict[int, list[int]] = {}
    running: set[int] = set()
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def submit() -> None:
        index = _next(work)
        if index is not None:
            running.add(index)
            replies[index] = []
            sampling = Sampling(temperature=0.0, max_tokens=work.new_tokens[index])
            engine.submit(EngineRequest(index, work.prompts[index], sampling))

    def deliver(chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            replies[chunk.key].extend(chunk.token_ids)
            if chunk.finish is None:
                continue
            if chunk.finish.stop_token_id is not None:
                replies[chunk.key].pop()
            running.remove(chunk.key)
            with work.done.get_lock():
                work.done.value += 1
            submit()
        if not running and not over.done():
            over.set_result(None)

    def failed(error: EngineError) -> None:
        if not over.done():
            over.set_exception(error)

    await engine.start(deliver, failed)
    try:
        for _ in range(RUNNING):
            submit()
        if running:
            await over
    finally:
        await engine.stop()
    return replies
