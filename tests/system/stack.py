"""A whole deployment inside the test's event loop: real workers, a real router, real sockets on free ports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from qwenserve.router.chat.model import ServedModel
from qwenserve.router.main import Router
from qwenserve.router.shim.main import Shim
from qwenserve.runtime.config import Config, ShimConfig, load_config
from qwenserve.runtime.grpc_setup import make_channel
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.worker.engine_choice import BuiltEngine, build_engine
from qwenserve.worker.engine_interface import Engine
from qwenserve.worker.main import run_worker

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "qwen3-tiny"
START_S = 30.0


@dataclass
class RunningWorker:
    """One worker of a stack."""

    port: int
    engine: Engine
    shutdown: Shutdown
    task: asyncio.Task[int]

    async def stop(self) -> int:
        """Ends it at once; returns its exit code."""
        self.shutdown.request()
        self.shutdown.request()
        return await asyncio.wait_for(self.task, START_S)


@dataclass
class Stack:
    """A running deployment."""

    config: Config
    router: Router
    channel: grpc.aio.Channel
    workers: list[RunningWorker] = field(default_factory=list)
    shim: Shim | None = None

    @property
    def url(self) -> str:
        """Base of the HTTP API: the shim's, where there is one."""
        return f"http://127.0.0.1:{(self.shim or self.router).http_port}"

    def running(self) -> int:
        """Requests that the engines themselves say they compute."""
        return sum(worker.engine.load().running for worker in self.workers)

    async def until_idle(self) -> None:
        """Returns once no engine computes anything; fails after a few seconds."""
        await until(lambda: self.running() == 0)


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    """Waits for a condition, looking at it on every turn of the event loop."""

    async def look() -> None:
        while not condition():  # noqa: ASYNC110  # the condition lives in objects that offer no event
            await asyncio.sleep(0)

    await asyncio.wait_for(look(), timeout_s)


def stack_config(**overrides: Any) -> Config:
    """Configuration of a test deployment: the small model, free ports, the simulated engine unless told otherwise."""
    settings = {
        "model.reference": str(TINY),
        "http.port": 0,
        "router.port": 0,
        "worker.port": 0,
        "worker.engine": "simulated",
        "worker.simulated.step_ms": 0,
        "drain_timeout_s": 5,
        "log.level": "warning",
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return load_config(environment={}, overrides=settings).config


async def start_worker(config: Config, built: BuiltEngine | None = None) -> RunningWorker:
    """Starts a worker on a free port and waits until it is ready."""
    if built is None:
        built = await asyncio.to_thread(build_engine, config)
    engine = built.engine
    shutdown = Shutdown()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.get_running_loop().create_task(
        run_worker(config, shutdown=shutdown, built=built, on_ready=ready.set_result)
    )
    done, _ = await asyncio.wait({task, ready}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
    if task in done or not done:
        raise RuntimeError(f"the worker did not start: {task.result() if task.done() else 'no answer'}")
    return RunningWorker(ready.result(), engine, shutdown, task)


@contextlib.asynccontextmanager
async def _shim(config: Config, grpc_port: int) -> AsyncIterator[Shim | None]:
    if not grpc_port:
        yield None
        return
    shim = Shim(config.model_copy(update={"shim": ShimConfig(routers=(f"127.0.0.1:{grpc_port}",))}))
    async with shim.serving(Shutdown()):
        await until(lambda: shim.routers.ready, START_S)
        yield shim


@contextlib.asynccontextmanager
async def running_stack(
    config: Config, *, workers: int = 1, model_path: Path = TINY, built: BuiltEngine | None = None, apart: bool = False
) -> AsyncIterator[Stack]:
    """Runs `workers` workers and one router inside the block. `built` is the engine of a single worker. `apart`: with a
    shim in front of the router.
    """
    started: list[RunningWorker] = []
    try:
        for index in range(workers):
            own = config.model_copy(update={"worker": config.worker.model_copy(update={"name": f"worker-{index}"})})
            started.append(await start_worker(own, built))
        addresses = tuple(f"127.0.0.1:{worker.port}" for worker in started)
        config = config.model_copy(update={"router": config.router.model_copy(update={"workers": addresses})})
        router = Router(config, ServedModel.load(model_path, config))
        async with router.serving(Shutdown()):
            await until(lambda: all(session.ready for session in router.sessions), START_S)
            async with (
                make_channel(f"127.0.0.1:{router.grpc_port}", config.grpc) as channel,
                _shim(config, router.grpc_port if apart else 0) as shim,
            ):
                yield Stack(config, router, channel, started, shim)
    finally:
        for worker in started:
            if not worker.task.done():
                await worker.stop()
