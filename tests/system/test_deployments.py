"""Deployments that are put together in other ways: a tokenizer tier, several workers, several routers on one port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import grpc
import pytest

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.main import Router
from qwenserve.runtime.config import Config, ConfigError
from qwenserve.runtime.grpc_setup import make_channel, make_server
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.text.assets import load_assets
from qwenserve.tokenizer.v1 import tokenizer_pb2_grpc
from qwenserve.tokenizer_svc.prompt_session import PromptServicer
from qwenserve.worker.engine_choice import BuiltEngine
from qwenserve.worker.engine_interface import EngineInfo
from tests.system.processes import free_port, start
from tests.system.requests import chat
from tests.system.scripted_engine import ScriptedEngine
from tests.system.stack import TINY, RunningWorker, Stack, running_stack, stack_config, start_worker, until

READY_S = 60.0


def chats(channel: grpc.aio.Channel) -> Any:
    return chat_pb2_grpc.ChatServiceStub(channel)


@contextlib.asynccontextmanager
async def tokenizer_tier() -> AsyncIterator[str]:
    config = stack_config()
    server = make_server(config.grpc)
    tokenizer_pb2_grpc.add_PromptServiceServicer_to_server(PromptServicer(load_assets(TINY), config), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def router_over(workers: Sequence[str], config: Config | None = None) -> AsyncIterator[Router]:
    config = config or stack_config()
    config = config.model_copy(update={"router": config.router.model_copy(update={"workers": tuple(workers)})})
    router = Router(config, ServedModel.load(TINY, config))
    async with router.serving(Shutdown()):
        yield router


def with_tools(text: str, **fields: Any) -> chat_pb2.ChatCompletionRequest:
    tool = message_pb2.Tool(definition_json='{"type": "function", "function": {"name": "f", "parameters": {}}}')
    return chat(text, conversation={"tools": [tool]}, max_tokens=5, seed=1, **fields)


async def test_a_tokenizer_tier_gives_the_same_prompts_and_answers() -> None:
    requests = [
        chat("你好，你是谁？", max_tokens=8, seed=1),
        chat("Hi", conversation={"enable_thinking": False}, max_tokens=8, seed=1),
        chat("Hi", conversation={"chat_template_kwargs_json": '{"enable_thinking": false}'}, max_tokens=8, seed=1),
        with_tools("Call it"),
        with_tools("Do not call it", tool_choice=chat_pb2.ToolChoice(mode=chat_pb2.ToolChoice.MODE_NONE)),
    ]

    async def asked(stack: Stack) -> list[Any]:
        seen: list[Any] = []
        for request in requests:
            explained = await chats(stack.channel).Explain(chat_pb2.ExplainRequest(chat=request))
            answer = await chats(stack.channel).CreateChatCompletion(request)
            prompt = chat_pb2.CompletionPrompt(text=explained.prompt)
            completion = await chats(stack.channel).CreateCompletion(chat_pb2.CompletionRequest(prompts=[prompt]))
            seen.append((explained.prompt, list(explained.token_ids), answer.choices[0].message))
            seen.append((answer.usage.prompt_tokens, completion.usage.prompt_tokens, completion.choices[0].text))
        return seen

    async with running_stack(stack_config()) as stack:
        inside = await asked(stack)
    async with tokenizer_tier() as address, running_stack(stack_config(router__tokenizers=[address])) as stack:
        assert await asked(stack) == inside


async def test_without_its_tokenizer_tier_a_router_says_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenserve.router.clients.text_service._AGAIN_S", 0.0)
    config = stack_config(router__tokenizers=[f"127.0.0.1:{free_port()}"])
    async with running_stack(config) as stack:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await chats(stack.channel).CreateChatCompletion(chat(max_tokens=1))

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "no tokenizer answers" in (caught.value.details() or "")


async def test_a_worker_with_another_model_is_not_used() -> None:
    other = await start_worker(stack_config(model__name="another"))
    right = await start_worker(stack_config())
    try:
        async with router_over([f"127.0.0.1:{w.port}" for w in (other, right)]) as router:
            wrong, good = router.sessions
            await until(lambda: good.ready)
            async with make_channel(f"127.0.0.1:{router.grpc_port}", stack_config().grpc) as channel:
                for _ in range(4):
                    await chats(channel).CreateChatCompletion(chat(max_tokens=1))
            assert not wrong.ready
    finally:
        for worker in (other, right):
            await worker.stop()


async def test_a_new_worker_takes_over_from_one_that_drains() -> None:
    config = stack_config(worker__simulated__step_ms=20)
    async with running_stack(config, workers=2) as stack:
        long = chats(stack.channel).StreamChatCompletion(chat(max_tokens=40, ignore_eos=True))
        started = (await long.read()).start
        busy = next(w for w in stack.workers if w.engine.load().running)

        busy.shutdown.request()
        answers = [await chats(stack.channel).CreateChatCompletion(chat(max_tokens=2)) for _ in range(3)]
        events = []
        while (event := await long.read()) is not grpc.aio.EOF:
            events.append(event)

    assert started.worker
    assert [answer.usage.completion_tokens for answer in answers] == [2, 2, 2]
    assert events[-1].usage.completion_tokens == 40


async def test_salts_keep_prefixes_apart_from_face_to_engine() -> None:
    prompt = "A long enough beginning that is the same for all of them. " * 10

    async def cached(stack: Stack, salt: str) -> int:
        answer = await chats(stack.channel).CreateChatCompletion(chat(prompt, max_tokens=1, cache_salt=salt))
        return int(answer.usage.cached_tokens)

    async with running_stack(stack_config()) as stack, aiohttp.ClientSession() as client:
        assert await cached(stack, "a") == 0
        assert await cached(stack, "b") == 0
        assert await cached(stack, "a") > 0
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 1, "cache_salt": "a"}
        async with client.post(f"{stack.url}/v1/chat/completions", json=body) as response:
            assert "cache_salt" not in response.headers.get("x-ignored-params", "")
            usage = (await response.json())["usage"]
        async with client.post(f"{stack.url}/v1/chat/completions", json={**body, "cache_salt": "x" * 300}) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == "cache_salt"

    assert usage["prompt_tokens_details"]["cached_tokens"] > 0


class PoorEngine(ScriptedEngine):
    """Cannot honour some fields, and takes nothing for granted of those who ask."""

    async def start(self, *arguments: Any) -> EngineInfo:
        info = await super().start(*arguments)
        lacks = frozenset({"cache_salt", "min_p", "seed", "top_logprobs", "repetition_penalty"})
        return EngineInfo(
            name="poor",
            version=info.version,
            max_model_len=info.max_model_len,
            vocab_size=info.vocab_size,
            eos_token_ids=info.eos_token_ids,
            max_running=info.max_running,
            unsupported_fields=lacks,
        )


@pytest.fixture
async def poor() -> AsyncIterator[Stack]:
    assets = load_assets(TINY)
    engine = PoorEngine(assets.tokenizer, min(assets.eos_token_ids), max_model_len=8192)
    async with running_stack(stack_config(), built=BuiltEngine(engine, "f")) as stack:
        yield stack


async def test_what_an_engine_lacks_is_listed_and_the_request_answered(poor: Stack) -> None:
    call = chats(poor.channel).CreateChatCompletion(
        chat("Hi", max_tokens=4, min_p=0.1, seed=3, top_logprobs=2, cache_salt="t")
    )
    answer = await call
    plain = await chats(poor.channel).CreateChatCompletion(chat("Hi", max_tokens=4))

    assert list(answer.ignored_params) == ["cache_salt", "min_p", "seed", "top_logprobs"]
    assert dict(await call.trailing_metadata())["x-ignored-params"] == "cache_salt, min_p, seed, top_logprobs"
    assert list(plain.ignored_params) == []
    assert plain.usage.completion_tokens == 4


async def test_what_an_engine_lacks_is_an_error_where_the_caller_is_strict(poor: Stack) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await chats(poor.channel).CreateChatCompletion(chat(cache_salt="t"), metadata=(("x-strict", "true"),))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "cache_salt" in (caught.value.details() or "")


async def test_too_many_answers_at_once_are_refused_before_any_work() -> None:
    prompts = [chat_pb2.CompletionPrompt(token_ids=chat_pb2.TokenIdList(ids=[50 + n])) for n in range(100)]
    async with running_stack(stack_config()) as stack:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await chats(stack.channel).CreateCompletion(chat_pb2.CompletionRequest(prompts=prompts, n=3))
        answer = await chats(stack.channel).CreateCompletion(
            chat_pb2.CompletionRequest(prompts=prompts, n=2, return_token_ids=True)
        )

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [list(choice.prompt_token_ids) for choice in answer.choices] == [[50 + n // 2] for n in range(200)]
    assert answer.usage.prompt_tokens == 100


async def test_one_bad_prompt_among_several_fails_the_request_and_leaves_nothing_running() -> None:
    ids = ([50, 51], [10**6], [52])
    prompts = [chat_pb2.CompletionPrompt(token_ids=chat_pb2.TokenIdList(ids=given)) for given in ids]
    async with running_stack(stack_config()) as stack:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await chats(stack.channel).CreateCompletion(chat_pb2.CompletionRequest(prompts=prompts))

        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert stack.running() == 0


@pytest.mark.parametrize("key", ["http.port", "router.port"])
async def test_a_taken_port_is_named_by_its_key(key: str) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    config = stack_config(**{key: taken.sockets[0].getsockname()[1]})
    try:
        with pytest.raises(ConfigError, match=key):
            async with router_over([], config):
                pass
    finally:
        taken.close()
        await taken.wait_closed()


async def until_ready(router: asyncio.subprocess.Process) -> None:
    """Reads the router's log up to the event that says so."""
    assert router.stderr is not None
    while b'"event": "ready"' not in (line := await asyncio.wait_for(router.stderr.readline(), READY_S)):
        assert line, "the router ended before it was ready"


async def answered(url: str) -> int:
    """Sends one request on a connection of its own; returns its status."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    async with aiohttp.ClientSession() as client, client.post(f"{url}/v1/chat/completions", json=body) as response:
        await response.read()
        return response.status


async def streamed(url: str, begun: list[None]) -> bool:
    """Streams one answer on a connection of its own; returns whether it came to its end."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60, "ignore_eos": True, "stream": True}
    last = b""
    with contextlib.suppress(aiohttp.ClientError, ConnectionError):
        async with aiohttp.ClientSession() as client, client.post(f"{url}/v1/chat/completions", json=body) as response:
            async for line in response.content:
                if line.startswith(b"data: ") and not last:
                    begun.append(None)
                last = line.strip() or last
    return last == b"data: [DONE]"


async def test_routers_share_their_ports_and_one_may_die() -> None:
    worker: RunningWorker = await start_worker(stack_config(worker__max_running=32, worker__simulated__step_ms=20))
    http_port, grpc_port = free_port(), free_port()
    settings = {"http.port": http_port, "router.port": grpc_port, "router.workers": f"[127.0.0.1:{worker.port}]"}
    url = f"http://127.0.0.1:{http_port}"
    routers = [
        await start("router", settings, "--share-ports", stderr=asyncio.subprocess.PIPE),
        await start("router", settings, "--share-ports", stderr=asyncio.subprocess.PIPE),
    ]
    try:
        for router in routers:
            await until_ready(router)
        begun: list[None] = []
        # The kernel spreads connections: that all of them go to one router does not happen.
        streams = [asyncio.ensure_future(streamed(url, begun)) for _ in range(24)]
        await until(lambda: len(begun) == 24, READY_S)

        routers[0].kill()
        ended = await asyncio.wait_for(asyncio.gather(*streams), READY_S)
        after = [await answered(url) for _ in range(20)]
        async with make_channel(f"127.0.0.1:{grpc_port}", stack_config().grpc) as channel:
            answer = await chats(channel).CreateChatCompletion(chat(max_tokens=3))
        await until(lambda: worker.engine.load().running == 0)
    finally:
        for router in routers:
            if router.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    router.terminate()
            await asyncio.wait_for(router.communicate(), READY_S)
        await worker.stop()

    assert set(ended) == {True, False}
    assert after == [200] * 20
    assert answer.usage.completion_tokens == 3
    assert routers[1].returncode == 0
