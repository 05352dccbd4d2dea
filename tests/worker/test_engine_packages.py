"""Loading a model in a thread, with a limit."""

from __future__ import annotations

import asyncio
import threading

import pytest

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engine_packages import load_in_time
from qwenserve.worker.engines.vllm.arguments import VLLM

LIMIT_S = 20.0


class Model:
    """Says when it is released."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self.closed.set)


async def test_a_model_that_comes_as_its_caller_leaves_is_released():
    """The worker was told to stop in the turn in which loading ended."""
    model = Model()
    loaded = threading.Event()

    def load() -> Model:
        loaded.wait(LIMIT_S)
        return model

    waiting = asyncio.ensure_future(load_in_time(load, LIMIT_S, VLLM))
    await asyncio.sleep(0)
    (loading,) = asyncio.all_tasks() - {waiting, asyncio.current_task()}
    loading.add_done_callback(lambda _: waiting.cancel())
    loaded.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(model.closed.wait(), LIMIT_S)


async def test_a_model_that_comes_too_late_is_released():
    model = Model()
    late = threading.Event()

    def load() -> Model:
        late.wait(LIMIT_S)
        return model

    with pytest.raises(EngineError, match=r"worker\.vllm\.start_timeout_s"):
        await load_in_time(load, 0.001, VLLM)
    late.set()
    await asyncio.wait_for(model.closed.wait(), LIMIT_S)
