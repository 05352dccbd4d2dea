"""Requests through AsyncLLM, for versions of vLLM whose core is not known: one task for each."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from qwenserve.worker.engine_interface import (
    Chunk,
    Deliver,
    EngineError,
    EngineRefusal,
    EngineRequest,
    TokenLogprob,
)
from qwenserve.worker.engines.vllm.core_reader import finish_from
from qwenserve.worker.engines.vllm.native import NativeVllm
from qwenserve.worker.engines.vllm.sampling import StructuredOutput
from qwenserve.worker.request_tasks import RequestTasks

# AsyncLLM says that its core died to requests only; without any it has to be asked.
_HEALTH_S = 0.25


class Generations:
    """The requests of one engine. Used on the event loop only; `deliver` and `on_failure` as in `Engine.start`."""

    def __init__(self, native: NativeVllm, deliver: Deliver, on_failure: Callable[[EngineError], None]) -> None:
        self._native = native
        self._tasks = RequestTasks(deliver, on_failure)
        self._numbers = itertools.count(1)
        self._health = asyncio.get_running_loop().create_task(self._watch(), name="vllm-health")
        # AsyncLLM tells its statistics to loggers only.
        self.kv_usage = -1.0

    @property
    def running(self) -> int:
        """Requests without a finish."""
        return self._tasks.running

    @property
    def steps(self) -> int:
        """Deliveries so far."""
        return self._tasks.deliveries

    @property
    def failed(self) -> bool:
        """Whether the core has died."""
        return self._tasks.failed

    def start(self, request: EngineRequest, arguments: Mapping[str, Any], structured: StructuredOutput | None) -> None:
        """Takes a request. Raises EngineRefusal."""
        self._tasks.start(request.key, self._answer(request, arguments, structured))

    def abort(self, key: int) -> None:
        """Ends a request: AsyncLLM aborts where the task that reads is cancelled."""
        self._tasks.abort(key)

    async def close(self, limit_s: float) -> None:
        """Aborts every request and delivers the finishes. Raises EngineError."""
        self._health.cancel()
        await self._tasks.close(limit_s)

    async def _watch(self) -> None:
        # vLLM has no event to wait for.
        while not self._native.errored:  # noqa: ASYNC110
            await asyncio.sleep(_HEALTH_S)
        self._tasks.fail(EngineError("vLLM's core has died"))

    async def _answer(
        self, request: EngineRequest, arguments: Mapping[str, Any], structured: StructuredOutput | None
    ) -> AsyncGenerator[Chunk, None]:
        try:
            outputs = self._native.generate(
                f"{request.key}-{next(self._numbers)}",
                request.prompt_token_ids,
                request.cache_salt,
                self._native.parameters(arguments, structured),
                -request.priority,
                request.traceparent,
            )
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    yield _chunk(request, output)
        except ValueError as error:
            raise EngineRefusal(f"{'guide' if structured else 'vLLM'}: {error}") from error
        except Exception as error:
            if self._native.is_dead(error):
                raise EngineError(f"vLLM's core has died ({error})") from error
            raise


def _chunk(request: EngineRequest, output: Any) -> Chunk:
    part = output.outputs[0]
    top = request.sampling.top_logprobs
    scored = None
    if top is not None and part.logprobs is not None:
        scored = [_row(token, row, top) for token, row in zip(part.token_ids, part.logprobs, strict=True)]
    prompt = None
    if request.prompt_logprobs is not None and output.prompt_logprobs:
        ids = request.prompt_token_ids[1:]
        rows = output.prompt_logprobs[1:]
        prompt = [_row(token, row, request.prompt_logprobs) for token, row in zip(ids, rows, strict=True)]
    finish = None
    if part.finish_reason is not None:
        finish = finish_from(part.finish_reason, part.stop_reason, output.num_cached_tokens or 0)
    return Chunk(request.key, part.token_ids, scored, finish, prompt)


def _row(token: int, row: Mapping[int, Any], top: int) -> TokenLogprob:
    # The id's own entry comes first, whatever its rank; a stable sort leaves it first among its equals.
    likeliest: Sequence[tuple[int, float]] = sorted(
        ((other, entry.logprob) for other, entry in row.items()), key=lambda pair: -pair[1]
    )
    return TokenLogprob(token, row[token].logprob, likeliest[:top])
