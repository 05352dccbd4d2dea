"""Processes that are stopped, not dead: their connections stay open, and nothing comes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import pytest

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.clients.text_service import RemoteTextService
from qwenserve.router.main import Router
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import Unavailable
from qwenserve.runtime.grpc_setup import make_channel
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.text.assets import load_assets
from qwenserve.worker.engines.simulated.engine import SimulatedEngine
from qwenserve.worker.engines.simulated.state import Faults
from tests.router.clients.test_worker_session import Stream, connected, submit
from tests.system.processes import free_port, start
from tests.system.stack import TINY, running_stack, stack_config, until

# Real processes start, stop and go on.
pytestmark = pytest.mark.timeout(200)

START_S = 60.0


@contextlib.asynccontextmanager
async def process(tier: str, **settings: object) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Runs one process inside the block, which may stop it; gives its address."""
    port = free_port()
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    started = await start(tier, {f"{tier.removesuffix('_svc')}.port": port, "log.level": "error", **dotted})
    try:
        yield f"127.0.0.1:{port}", started
    finally:
        if started.returncode is None:
            started.send_signal(signal.SIGCONT)
            started.kill()
        await asyncio.wait_for(started.wait(), START_S)


@pytest.mark.long
async def test_a_stopped_worker_is_lost_and_used_again_once_it_goes_on() -> None:
    settings = {"worker__engine": "simulated", "worker__simulated__step_ms": 20, "model__name": "m"}
    async with contextlib.AsyncExitStack() as stack:
        address, worker = await stack.enter_async_context(process("worker", **settings))
        session = await stack.enter_async_context(connected(address, ready=False, stall_timeout_s=1.0))
        await until(lambda: session.ready, START_S)
        streams = [Stream() for _ in range(20)]
        for stream in streams:
            submit(session, stream, max_tokens=5000)
        await until(lambda: all(stream.ids for stream in streams[:8]), START_S)

        worker.send_signal(signal.SIGSTOP)
        await until(lambda: all(stream.ended for stream in streams), START_S)
        assert {"has said nothing" in str(stream.error) for stream in streams} == {True}
        assert not session.ready

        worker.send_signal(signal.SIGCONT)
        await until(lambda: session.ready, START_S)
        submit(session, again := Stream(), max_tokens=3)
        await until(lambda: again.ended, START_S)
        assert len(again.ids) == 3


@pytest.mark.long
async def test_answers_of_a_stopped_worker_go_on_elsewhere() -> None:
    """100 answers under way: every one is what it is without the stop."""
    async with contextlib.AsyncExitStack() as stack:
        settings = {
            "model__reference": TINY,
            "worker__engine": "simulated",
            "worker__simulated__step_ms": 20,
            "worker__max_running": 64,
        }
        pairs = [
            await stack.enter_async_context(process("worker", **settings, worker__name=f"w{number}"))
            for number in range(2)
        ]
        config = stack_config(router__workers=[address for address, _ in pairs], router__stall_timeout_s=1.5)
        router = Router(config, ServedModel.load(TINY, config))
        await stack.enter_async_context(router.serving(Shutdown()))
        await until(lambda: all(session.ready for session in router.sessions), START_S)
        channel = await stack.enter_async_context(make_channel(f"127.0.0.1:{router.grpc_port}", config.grpc))
        stub = chat_pb2_grpc.ChatServiceStub(channel)

        async def ask(number: int) -> tuple[list[int], int]:
            request = chat_pb2.CompletionRequest(return_token_ids=True)
            request.sampling.temperature = 0
            request.sampling.max_tokens = 150
            request.prompts.add().token_ids.ids.extend([number, 2, 3])
            reply: chat_pb2.Completion = await stub.CreateCompletion(request, timeout=100)
            return list(reply.choices[0].token_ids), reply.usage.completion_tokens

        undisturbed = await asyncio.gather(*map(ask, range(100)))
        asked = [asyncio.ensure_future(ask(number)) for number in range(100)]
        await until(lambda: all(session.load.running > 20 for session in router.sessions), START_S)
        pairs[0][1].send_signal(signal.SIGSTOP)

        assert await asyncio.wait_for(asyncio.gather(*asked), 100) == undisturbed
        assert [session.ready for session in router.sessions] == [False, True]


async def test_answers_of_an_engine_that_stands_still_go_on_elsewhere() -> None:
    config = stack_config(worker__stall_timeout_s=0.8, worker__simulated__step_ms=5)
    async with running_stack(config, workers=2) as stack:
        stub = chat_pb2_grpc.ChatServiceStub(stack.channel)

        async def ask(number: int) -> list[int]:
            request = chat_pb2.CompletionRequest(return_token_ids=True)
            request.sampling.temperature = 0
            request.sampling.max_tokens = 100
            request.prompts.add().token_ids.ids.extend([number, 2, 3])
            reply: chat_pb2.Completion = await stub.CreateCompletion(request, timeout=60)
            return list(reply.choices[0].token_ids)

        undisturbed = await asyncio.gather(*map(ask, range(8)))
        asked = [asyncio.ensure_future(ask(number)) for number in range(8)]
        await until(lambda: all(worker.engine.load().running for worker in stack.workers))
        stuck = stack.workers[0].engine
        assert isinstance(stuck, SimulatedEngine)
        stuck.inject(Faults(stall_after_steps=0))

        assert await asyncio.wait_for(asyncio.gather(*asked), START_S) == undisturbed
        stands_still = stack.router.sessions[0]
        await until(lambda: not stands_still.ready)
        assert "no step" in stands_still.why_not_ready

        stuck.inject(Faults())
        await until(lambda: stands_still.ready, START_S)


async def test_a_prompt_for_a_stopped_tokenizer_is_tokenized_by_another() -> None:
    tokenizer = load_assets(TINY).tokenizer
    async with contextlib.AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(process("tokenizer_svc", model__name="qwen3-tiny")) for _ in range(2)]
        text = RemoteTextService([address for address, _ in pairs], "qwen3-tiny", GrpcConfig(), silence_limit_s=1.0)
        stack.push_async_callback(text.close)
        for address, _ in pairs:
            alone = RemoteTextService([address], "qwen3-tiny", GrpcConfig(), silence_limit_s=10.0)
            await asyncio.wait_for(_until_it_answers(alone), START_S)
            await alone.close()

        pairs[0][1].send_signal(signal.SIGSTOP)
        for number in range(4):
            asked = text.tokenize(f"number {number}")
            assert await asyncio.wait_for(asked, START_S) == tokenizer.encode(f"number {number}").tolist()


async def _until_it_answers(text: RemoteTextService) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            await text.tokenize("Hi")
            return
        # Nothing tells when another process begins to listen: asking again is all there is.
        await asyncio.sleep(0.1)
