"""Answers prompts greedily with the project's embedded engine: no torch; weights in float32, the cache in float16."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from worker.engines.gguf_files import WeightType, engine_file
from worker.engines.interface import Chunk, EngineError, EngineRequest, Sampling
from worker.engines.llamacpp import LlamaCppConfig, LlamaCppEngine, llamacpp_environment

RUNNING = 8


def answer(
    folder: Path, prompts: Sequence[Sequence[int]], new_tokens: Sequence[int], progress: Callable[[int], None]
) -> list[list[int]]:
    """Returns the reply ids of each prompt, without end tokens. `progress` is told how many are done."""
    os.environ.update(llamacpp_environment())
    return asyncio.run(_answer(folder, prompts, new_tokens, progress))


async def _answer(
    folder: Path, prompts: Sequence[Sequence[int]], new_tokens: Sequence[int], progress: Callable[[int], None]
) -> list[list[int]]:
    config = LlamaCppConfig(engine_file(folder, WeightType.F32), max_running=RUNNING, batch_tokens=512)
    engine = LlamaCppEngine(config)
    replies: list[list[int]] = [[] for _ in prompts]
    # A step costs what its longest context costs, so prompts of like length go together; long replies come first.
    waiting: Iterator[int] = iter(sorted(range(len(prompts)), key=lambda i: (-new_tokens[i], len(prompts[i]))))
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done = 0

    def submit() -> None:
        index = next(waiting, None)
        if index is not None:
            sampling = Sampling(temperature=0.0, max_tokens=new_tokens[index])
            engine.submit(EngineRequest(index, prompts[index], sampling))

    def deliver(chunks: Sequence[Chunk]) -> None:
        nonlocal done
        for chunk in chunks:
            replies[chunk.key].extend(chunk.token_ids)
            if chunk.finish is None:
                continue
            if chunk.finish.stop_token_id is not None:
                replies[chunk.key].pop()
            done += 1
            progress(done)
            submit()
        if done == len(prompts) and not over.done():
            over.set_result(None)

    def failed(error: EngineError) -> None:
        if not over.done():
            over.set_exception(error)

    await engine.start(deliver, failed)
    try:
        for _ in range(RUNNING):
            submit()
        await over
    finally:
        await engine.stop()
    return replies
