"""A worker on a free loopback port with the simulated engine, and a client session to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from qwenserve.router.clients.logprobs import unpacked_run
from qwenserve.runtime.config import Config, load_config
from qwenserve.runtime.grpc_setup import make_channel
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.runtime.packed_ids import packed_ids
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.convert import with_neutral
from qwenserve.worker.engine_choice import BuiltEngine
from qwenserve.worker.engines.simulated.engine import SimulatedEngine
from qwenserve.worker.engines.simulated.state import SimulatedConfig
from qwenserve.worker.main import run_worker
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc

LIMIT_S = 10.0


def configuration(**overrides: Any) -> Config:
    """A worker's configuration; keys of the worker section."""
    values = {"name": "w", "engine": "simulated", "port": 0, **overrides}
    top = {key.replace("__", "."): values.pop(key) for key in ("drain_timeout_s", "metrics__port") if key in values}
    return load_config(
        environment={},
        overrides={**top, "model.name": "m", **{f"worker.{key}": value for key, value in values.items()}},
    ).config


def submit(
    handle: int, prompt: list[int], *, sampling: dict[str, Any] | None = None, **fields: Any
) -> worker_pb2.Submit:
    """A complete submit; `sampling` overrides neutral parameters."""
    params = with_neutral(sampling_pb2.SamplingParams(**(sampling or {})))
    return worker_pb2.Submit(handle=handle, prompt_token_ids=packed_ids(prompt), sampling=params, **fields)


def entries(message: worker_pb2.SessionResponse | None) -> list[tuple[int, list[int]]]:
    """What a message brings: each handle with its token ids, in the message's order."""
    assert message is not None
    position = 0
    found = []
    for handle, count in zip(message.handles, message.counts or [1] * len(message.handles), strict=True):
        found.append((handle, list(message.token_ids[position : position + count])))
        position += count
    assert position == len(message.token_ids)
    return found


@dataclass
class Answer:
    """What a session has said about one handle."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[sampling_pb2.TokenLogprob] = field(default_factory=list)
    finish: worker_pb2.Finish | None = None


class Client:
    """The router's side of one session."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.messages: list[worker_pb2.SessionResponse] = []
        self.answers: dict[int, Answer] = {}

    async def send(self, *submits: worker_pb2.Submit, aborts: tuple[int, ...] = (), ping: bool = False) -> None:
        await self.call.write(worker_pb2.SessionRequest(submits=submits, aborts=aborts, ping=ping))

    async def read(self) -> worker_pb2.SessionResponse:
        message: worker_pb2.SessionResponse = await asyncio.wait_for(self.call.read(), LIMIT_S)
        assert message is not grpc.aio.EOF, await self.call.code()
        self.messages.append(message)
        for handle, token_ids in entries(message):
            self.answer(handle).token_ids.extend(token_ids)
        ids = dict(entries(message))
        for run in message.logprobs:
            self.answer(run.handle).logprobs.extend(unpacked_run(ids[run.handle], run))
        for finish in message.finishes:
            assert self.answer(finish.handle).finish is None
            self.answer(finish.handle).finish = finish
        return message

    def answer(self, handle: int) -> Answer:
        return self.answers.setdefault(handle, Answer())

    async def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self.read()

    async def finish_of(self, handle: int) -> worker_pb2.Finish:
        await self.until(lambda: self.answer(handle).finish is not None)
        finish = self.answer(handle).finish
        assert finish is not None
        return finish

    async def tokens_of(self, handle: int, count: int = 1) -> list[int]:
        await self.until(lambda: len(self.answer(handle).token_ids) >= count)
        return self.answer(handle).token_ids

    async def status(self) -> grpc.aio.AioRpcError:
        """Reads to the end, which must be an error."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await asyncio.wait_for(self.call.read(), LIMIT_S) is not grpc.aio.EOF:
                pass
        code = await asyncio.wait_for(self.call.code(), LIMIT_S)
        return grpc.aio.AioRpcError(
            code, await self.call.initial_metadata(), await self.call.trailing_metadata(), await self.call.details()
        )


@dataclass
class Running:
    """A worker that runs."""

    port: int
    config: Config
    channel: grpc.aio.Channel
    stub: Any
    engine: SimulatedEngine
    shutdown: Shutdown
    process: asyncio.Task[int]

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Client]:
        call = self.stub.Session()
        try:
            yield Client(call)
        finally:
            call.cancel()

    async def load(self) -> worker_pb2.Load:
        load: worker_pb2.Load = await self.stub.GetLoad(worker_pb2.GetLoadRequest(), timeout=LIMIT_S)
        return load

    async def until_load(self, reached: Callable[[worker_pb2.Load], bool]) -> worker_pb2.Load:
        """Waits until the worker's load is as wanted."""

        async def poll() -> worker_pb2.Load:
            while True:
                load = await self.load()
                if reached(load):
                    return load

        return await asyncio.wait_for(poll(), LIMIT_S)

    async def until_idle(self) -> None:
        await self.until_load(lambda load: load.running == load.queued == 0)

    async def exit_code(self) -> int:
        return await asyncio.wait_for(asyncio.shield(self.process), LIMIT_S)


@contextlib.asynccontextmanager
async def running(engine: SimulatedConfig | None = None, **overrides: Any) -> AsyncIterator[Running]:
    """Runs a worker for a block."""
    config = configuration(**overrides)
    simulated = SimulatedEngine(engine or SimulatedConfig(step_s=0.001))
    shutdown = Shutdown()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    process = asyncio.ensure_future(
        run_worker(config, shutdown=shutdown, built=BuiltEngine(simulated, "f"), on_ready=ready.set_result)
    )
    try:
        await asyncio.wait({ready, process}, timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        port = ready.result()
        async with make_channel(f"127.0.0.1:{port}", config.grpc) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            yield Running(port, config, channel, stub, simulated, shutdown, process)
    finally:
        shutdown.request()
        shutdown.request()
        await asyncio.wait_for(process, LIMIT_S)
