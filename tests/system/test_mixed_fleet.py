"""Workers of one model that differ: each request goes to one that can serve it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.main import Router
from qwenserve.runtime.grpc_setup import make_channel
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.type.v1 import guide_pb2, sampling_pb2
from qwenserve.worker.engine_choice import BuiltEngine
from qwenserve.worker.engine_interface import EngineInfo
from qwenserve.worker.engines.simulated.engine import SimulatedEngine
from qwenserve.worker.engines.simulated.state import SimulatedConfig
from qwenserve.worker.guides.matcher import vocabulary_of
from tests.system.stack import TINY, RunningWorker, stack_config, start_worker, until

Complete = Callable[..., Awaitable[chat_pb2.Completion]]


class PoorEngine(SimulatedEngine):
    """The simulated engine, of which some fields are said to be beyond it."""

    def __init__(self, config: SimulatedConfig, *unsupported: str, max_top_logprobs: int = 20) -> None:
        super().__init__(config)
        self._unsupported = frozenset(unsupported)
        self._max_top_logprobs = max_top_logprobs

    async def start(self, *arguments: Any) -> EngineInfo:
        info = await super().start(*arguments)
        return replace(info, unsupported_fields=self._unsupported, max_top_logprobs=self._max_top_logprobs)


@contextlib.asynccontextmanager
async def fleet(*engines: SimulatedEngine, strict: bool = False) -> AsyncIterator[tuple[Complete, list[RunningWorker]]]:
    """Runs a worker for each engine and a router that takes them in turn; gives what asks it."""
    config = stack_config(router__policy="round_robin", router__strict=strict)
    started: list[RunningWorker] = []
    try:
        for index, engine in enumerate(engines):
            own = config.worker.model_copy(update={"name": f"w{index}"})
            built = BuiltEngine(engine, "")
            started.append(await start_worker(config.model_copy(update={"worker": own}), built))
        addresses = tuple(f"127.0.0.1:{worker.port}" for worker in started)
        config = config.model_copy(update={"router": config.router.model_copy(update={"workers": addresses})})
        router = Router(config, ServedModel.load(TINY, config))
        async with router.serving(Shutdown()):
            await until(lambda: all(session.ready for session in router.sessions))
            async with make_channel(f"127.0.0.1:{router.grpc_port}", config.grpc) as channel:
                stub = chat_pb2_grpc.ChatServiceStub(channel)

                async def complete(guide: guide_pb2.Guide | None = None, **sampling: Any) -> chat_pb2.Completion:
                    request = chat_pb2.CompletionRequest(sampling=sampling_pb2.SamplingParams(**sampling), guide=guide)
                    request.prompts.add().token_ids.ids.extend([1, 2, 3])
                    reply: chat_pb2.Completion = await stub.CreateCompletion(request, timeout=30)
                    return reply

                yield complete, started
    finally:
        for worker in started:
            await worker.stop()


def engine_of(window: int = 256) -> SimulatedConfig:
    return SimulatedConfig(vocab_size=8192, eos_token_ids=(8191,), max_model_len=window, step_s=0.0)


async def test_long_answers_go_to_large_windows_and_short_ones_to_all() -> None:
    small, large = SimulatedEngine(engine_of(64)), SimulatedEngine(engine_of(256))
    async with fleet(small, large) as (complete, _):
        for _ in range(4):
            reply = await complete(max_tokens=200)
            assert (reply.choices[0].finish.reason, list(reply.ignored_params)) == (
                sampling_pb2.FINISH_REASON_LENGTH,
                [],
            )
            assert reply.usage.completion_tokens == 200
        assert small.load().steps == 0

        for _ in range(4):
            await complete(max_tokens=4)
        assert small.load().steps > 0


async def test_a_field_that_only_some_can_apply_is_applied_by_them() -> None:
    poor, able = PoorEngine(engine_of(), "min_p", "top_logprobs"), SimulatedEngine(engine_of())
    async with fleet(poor, able, strict=True) as (complete, _):
        for _ in range(4):
            assert not (await complete(max_tokens=2, min_p=0.1)).ignored_params
            assert len((await complete(max_tokens=2, top_logprobs=3)).choices[0].logprobs) == 2
        assert poor.load().steps == 0


async def test_what_no_worker_can_apply_is_refused_by_name_or_listed() -> None:
    engines = [PoorEngine(engine_of(), "min_p", max_top_logprobs=5) for _ in range(2)]
    async with fleet(*engines) as (complete, _):
        assert list((await complete(max_tokens=2, min_p=0.1)).ignored_params) == ["min_p"]
        with pytest.raises(grpc.aio.AioRpcError, match="top_logprobs must be 0 to 5"):
            await complete(max_tokens=2, top_logprobs=6)
    async with fleet(PoorEngine(engine_of(), "min_p"), strict=True) as (complete, _):
        with pytest.raises(grpc.aio.AioRpcError, match="min_p"):
            await complete(max_tokens=2, min_p=0.1)


async def test_guided_answers_go_to_workers_that_can_follow_the_guide() -> None:
    """The others stay idle, whoever's turn it is."""
    config = replace(engine_of(), vocab_size=4096, eos_token_ids=(4072,))
    vocabulary = vocabulary_of(TINY, config.vocab_size, config.eos_token_ids)
    engines = SimulatedEngine(config), SimulatedEngine(config, vocabulary)
    guide = guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_CHOICE, text='["yes","no"]')
    async with fleet(*engines) as (complete, _):
        for _ in range(4):
            assert (await complete(guide, max_tokens=8)).choices[0].text in ("yes", "no")
        assert engines[0].load().steps == 0
