"""Strangers at the ports of workers and tokenizers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.clients.text_service import RemoteTextService
from qwenserve.router.main import Router
from qwenserve.runtime.config import Config, ConfigError
from qwenserve.runtime.errors import Unavailable
from qwenserve.runtime.grpc_setup import make_channel, make_server
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.runtime.secret import Secret
from qwenserve.runtime.trust import Trust
from qwenserve.text.assets import load_assets
from qwenserve.tokenizer.v1 import tokenizer_pb2_grpc
from qwenserve.tokenizer_svc.main import serve
from qwenserve.tokenizer_svc.prompt_session import PromptServicer
from qwenserve.worker.main import run_worker
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.system.stack import TINY, running_stack, stack_config, until

TOKEN = "the deployment's own"
OTHERS = [(), (("x-cluster-token", "another"),), (("x-cluster-token", ""),), (("authorization", f"Bearer {TOKEN}"),)]


@contextlib.asynccontextmanager
async def tokenizer(config: Config) -> AsyncIterator[str]:
    server = make_server(config.grpc, trust=Trust.from_config(config))
    tokenizer_pb2_grpc.add_PromptServiceServicer_to_server(PromptServicer(load_assets(TINY), config), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_token_lets_the_deployment_in_and_nobody_else():
    """Router, worker and tokenizer with one token answer; calls without it end before anything is read."""
    config = stack_config(cluster__token=TOKEN)
    async with tokenizer(config) as address:
        router = config.router.model_copy(update={"tokenizers": (address,)})
        async with running_stack(config.model_copy(update={"router": router})) as stack:
            hello = message_pb2.Message(role=message_pb2.ROLE_USER, content="Hello")
            answer = await chat_pb2_grpc.ChatServiceStub(stack.channel).CreateChatCompletion(
                chat_pb2.ChatCompletionRequest(conversation=message_pb2.Conversation(messages=[hello])), timeout=60
            )
            assert answer.usage.completion_tokens

            async with make_channel(f"127.0.0.1:{stack.workers[0].port}", config.grpc) as channel:
                worker = worker_pb2_grpc.WorkerServiceStub(channel)
                for metadata in OTHERS:
                    for call in (
                        worker.GetWorkerInfo(worker_pb2.GetWorkerInfoRequest(), metadata=metadata, timeout=60),
                        worker.GetLoad(worker_pb2.GetLoadRequest(), metadata=metadata, timeout=60),
                    ):
                        with pytest.raises(grpc.aio.AioRpcError) as refused:
                            await call
                        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
                    session = worker.Session(metadata=metadata, timeout=60)
                    assert await session.code() is grpc.StatusCode.UNAUTHENTICATED
                    assert "cluster.token" in await session.details()
                await worker.GetLoad(worker_pb2.GetLoadRequest(), metadata=Trust(Secret(TOKEN)).metadata, timeout=60)
                # Health checks are for whoever looks after the process.
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)


async def test_a_router_with_another_token_says_why_it_has_no_worker():
    """The worker's own words reach readiness."""
    with_token = stack_config(cluster__token=TOKEN)
    async with running_stack(with_token) as stack:
        other = stack_config(cluster__token="another", router__workers=[f"127.0.0.1:{stack.workers[0].port}"])
        router = Router(other, ServedModel.load(TINY, other))
        async with router.serving(Shutdown()):
            await until(lambda: "cluster.token" in router.core.ready(), 60)


async def test_a_tokenizer_that_asks_for_a_token_is_none_without_it():
    """A router with the wrong token is told that no tokenizer answers, and why."""
    config = stack_config(cluster__token=TOKEN)
    async with tokenizer(config) as address:
        text = RemoteTextService([address], config.model_name, config.grpc)
        try:
            with pytest.raises(Unavailable, match=r"cluster\.token"):
                await asyncio.wait_for(text.tokenize("Hello"), 60)
        finally:
            await text.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "worker.example"])
async def test_beyond_loopback_nobody_listens_without_a_token(host: str):
    """The error names the setting and what to do; with a token there is none."""
    config = stack_config(worker__host=f"'{host}'", tokenizer__host=f"'{host}'")
    with pytest.raises(ConfigError, match=r"worker\.host: .*QWENSERVE_CLUSTER__TOKEN"):
        await run_worker(config, shutdown=Shutdown())
    with pytest.raises(ConfigError, match=r"tokenizer\.host: .*cluster\.token"):
        await serve(config, Shutdown())
    Trust(Secret(TOKEN)).check_listening(host, "worker.host")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.3.2.1"])
def test_on_loopback_nothing_is_asked_for(host: str):
    """The first steps need no token."""
    Trust().check_listening(host, "worker.host")


def test_a_token_is_not_printed():
    """Neither by what carries it nor by an error."""
    trust = Trust(Secret(TOKEN))

    assert TOKEN not in f"{trust} {trust!r}"
