"""Answers to repeated prompts, through a whole deployment."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import aiohttp
import grpc
import pytest

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.router.chat.model import ServedModel
from qwenserve.type.v1 import guide_pb2
from qwenserve.worker.engine_choice import BuiltEngine
from tests.store.servers import running_redis, why_none
from tests.system.requests import chat
from tests.system.scripted_engine import ScriptedEngine
from tests.system.stack import TINY, Stack, running_stack, stack_config, until

HIT, MISS, JOINED = chat_pb2.CACHE_STATUS_HIT, chat_pb2.CACHE_STATUS_MISS, chat_pb2.CACHE_STATUS_JOINED
BOTH = chat_pb2.CachePolicy(mode=chat_pb2.CACHE_MODE_READ_WRITE)


def stub_of(stack: Stack) -> Any:
    return chat_pb2_grpc.ChatServiceStub(stack.channel)


def results(stack: Stack) -> dict[str, float]:
    """The router's counter by result."""
    body, _ = stack.router.metrics.render()
    found = {}
    for line in body.decode().splitlines():
        if line.startswith("qwenserve_answer_cache_total"):
            found[line.partition('result="')[2].partition('"')[0]] = float(line.rpartition(" ")[2])
    return found


def counted(stack: Stack, name: str) -> float:
    """The value of one of the router's counters."""
    body, _ = stack.router.metrics.render()
    [value] = [line.rpartition(" ")[2] for line in body.decode().splitlines() if line.startswith(f"{name} ")]
    return float(value)


async def until_kept(stack: Stack, answers: int) -> None:
    """Answers are written when nobody waits for it any more."""
    await until(lambda: results(stack).get("kept") == answers)


def same(answer: chat_pb2.ChatCompletion) -> chat_pb2.ChatCompletion:
    """An answer without what differs between two equal ones."""
    bare = chat_pb2.ChatCompletion()
    bare.CopyFrom(answer)
    for name in ("id", "created", "cache"):
        bare.ClearField(name)
    bare.usage.ClearField("cached_tokens")
    for choice in bare.choices:
        for call in choice.message.tool_calls:
            call.id = ""
    return bare


REQUESTS = {
    "greedy": {"temperature": 0.0, "max_tokens": 40},
    "seeded": {"temperature": 0.9, "seed": 7, "max_tokens": 12},
    "log-probabilities": {"temperature": 0.0, "max_tokens": 12, "top_logprobs": 3, "return_token_ids": True},
    "choices": {"temperature": 1.0, "seed": 7, "n": 3, "max_tokens": 8},
    "stop string": {"temperature": 0.0, "stop_strings": ["e"], "max_tokens": 200},
}


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
async def test_a_repeated_prompt_gets_the_kept_answer(fields: dict[str, Any]) -> None:
    """The same answer in every part, whole and streamed; no worker is needed for it."""
    async with running_stack(stack_config()) as stack:
        request = chat("Tell me something", cache=BOTH, **fields)
        first = await stub_of(stack).CreateChatCompletion(request)
        await until_kept(stack, max(1, request.n))
        await stack.workers[0].stop()

        second = await stub_of(stack).CreateChatCompletion(request)
        events = [event async for event in stub_of(stack).StreamChatCompletion(request)]

        assert (first.cache, second.cache, events[0].start.cache) == (MISS, HIT, HIT)
        assert same(second) == same(first)
        assert first.choices[0].message.content or first.choices[0].message.reasoning_content
        assert second.usage.cached_tokens == second.usage.prompt_tokens == first.usage.prompt_tokens
        for choice in first.choices:
            own = [event for event in events if event.choice_index == choice.index]
            assert "".join(event.content_delta for event in own) == choice.message.content
            assert "".join(event.reasoning_delta for event in own) == choice.message.reasoning_content
            assert [event.finish for event in own if event.HasField("finish")] == [choice.finish]
            assert [item for event in own for item in event.logprobs] == list(choice.logprobs)
        assert events[-1].usage == second.usage
        assert events[0].start.worker == "cache"


async def test_tool_calls_and_reasoning_are_given_again() -> None:
    """What the text side makes of ids it makes again, with ids of their own for the calls."""
    config = stack_config()
    model = ServedModel.load(TINY, config)
    engine = ScriptedEngine(model.assets.tokenizer, min(model.assets.eos_token_ids), max_model_len=2048)
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    conversation = {"tools": [{"definition_json": json.dumps(tool)}]}
    async with running_stack(config, built=BuiltEngine(engine, "scripted")) as stack:
        request = chat("Weather in Paris and Rome?", conversation=conversation, temperature=0.0, cache=BOTH)
        first = await stub_of(stack).CreateChatCompletion(request)
        await until_kept(stack, 1)
        second = await stub_of(stack).CreateChatCompletion(request)

        assert second.cache == HIT
        assert same(second) == same(first)
        calls = [[call.id for call in answer.choices[0].message.tool_calls] for answer in (first, second)]
        assert [len(ids) for ids in calls] == [2, 2]
        assert not set(calls[0]) & set(calls[1])


async def test_guided_answers_are_kept_by_their_guide() -> None:
    """The same guide finds the answer, from its first token or behind a thought; another one does not."""
    async with running_stack(stack_config()) as stack:

        def guided(pattern: str, **more: Any) -> chat_pb2.ChatCompletionRequest:
            guide = guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_REGEX, text=pattern)
            fields = {"temperature": 0.0, "max_tokens": 20, "cache": BOTH, "guide": guide}
            return chat("Which letters?", **{**fields, "conversation": {"enable_thinking": False}, **more})

        first = await _whole(stack, guided("[ab]{5}"))
        await until_kept(stack, 1)
        second = await _whole(stack, guided("[ab]{5}"))

        assert (first.cache, second.cache) == (MISS, HIT)
        assert same(second) == same(first)
        assert re.fullmatch("[ab]{5}", first.choices[0].message.content)
        other = await _whole(stack, guided("[ab]{6}"))
        assert other.cache == MISS
        assert re.fullmatch("[ab]{6}", other.choices[0].message.content)
        # Behind a thought it begins in a leg of its own, and with a budget so does what follows the thought.
        await until_kept(stack, 2)
        for count, budget in enumerate((2, 3), 3):
            fields = {"conversation": {"enable_thinking": True}, "thinking_budget": budget, "max_tokens": 100}
            thought = guided("[ab]{5}", **fields)
            first = await _whole(stack, thought)
            await until_kept(stack, count)
            second = await _whole(stack, thought)
            assert (first.cache, second.cache) == (MISS, HIT)
            assert same(second) == same(first)
            assert first.choices[0].finish.thinking_cut
            assert re.fullmatch("[ab]{5}", first.choices[0].message.content)


async def test_an_answer_whose_thought_was_closed_is_given_again_with_what_was_appended() -> None:
    """One budget's answer is not another's; where log-probabilities are asked for, what was appended has none."""
    model = ServedModel.load(TINY, stack_config())
    engine = ScriptedEngine(model.assets.tokenizer, min(model.assets.eos_token_ids), max_model_len=2048)
    async with running_stack(stack_config(), built=BuiltEngine(engine, "scripted")) as stack:
        for count, budget in enumerate((2, 3), 1):
            request = chat("Hi", temperature=0.0, thinking_budget=budget, cache=BOTH, return_token_ids=True)
            first = await _whole(stack, request)
            await until_kept(stack, count)
            second = await _whole(stack, request)
            assert (first.cache, second.cache) == (MISS, HIT)
            assert first.choices[0].finish.thinking_cut
            assert same(second) == same(first)
        request = chat("Hi", temperature=0.0, thinking_budget=2, cache=BOTH, top_logprobs=0)
        assert [(await _whole(stack, request)).cache for _ in range(2)] == [MISS, MISS]
        assert results(stack)["kept"] == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7},
        {"temperature": 0.0, "cache": None},
        {"temperature": 0.0, "cache": chat_pb2.CachePolicy(mode=chat_pb2.CACHE_MODE_OFF)},
        {"temperature": 0.0, "cache": chat_pb2.CachePolicy(mode=chat_pb2.CACHE_MODE_READ)},
    ],
    ids=["no seed", "not asked for", "off", "read only"],
)
async def test_what_is_not_to_be_kept_is_not(fields: dict[str, Any]) -> None:
    """Above temperature 0 without a seed, and where nobody wants it, nothing is kept."""
    async with running_stack(stack_config()) as stack:
        request = chat(max_tokens=4, **{"cache": BOTH, **fields})
        for _ in range(3):
            answer = await stub_of(stack).CreateChatCompletion(request)
            assert answer.cache in (chat_pb2.CACHE_STATUS_UNSPECIFIED, MISS)
        await stack.until_idle()

        assert "kept" not in results(stack)
        assert "hit" not in results(stack)


async def test_what_differs_is_kept_apart() -> None:
    """Another prompt, parameter, stop string or salt is another answer."""
    async with running_stack(stack_config(cache__mode="readwrite")) as stack:
        variants: list[dict[str, Any]] = [
            {},
            {"text": "Hello!"},
            {"max_tokens": 5},
            {"stop_strings": ["x"]},
            {"cache_salt": "a"},
            {"presence_penalty": 0.5},
            {"tool_choice": chat_pb2.ToolChoice(parallel=False)},
        ]
        for count, fields in enumerate(variants, 1):
            request = chat(**{"temperature": 0.0, "max_tokens": 4, **fields})
            assert (await stub_of(stack).CreateChatCompletion(request)).cache == MISS
            await until_kept(stack, count)
            assert (await stub_of(stack).CreateChatCompletion(request)).cache == HIT
        # Who asks, and how soon it is wanted, is no matter.
        request = chat(temperature=0.0, max_tokens=4, user="u", priority=3, metadata={"a": "b"})
        assert (await stub_of(stack).CreateChatCompletion(request)).cache == HIT


async def test_modes_and_ages() -> None:
    """Writing alone takes nothing; an age of 0 takes nothing that was kept; only-if-cached asks no engine."""
    async with running_stack(stack_config()) as stack:

        async def ask(**policy: Any) -> int:
            request = chat(temperature=0.0, max_tokens=4, cache=chat_pb2.CachePolicy(**policy))
            return int((await stub_of(stack).CreateChatCompletion(request)).cache)

        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ask(only_if_cached=True)
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert await ask(mode=chat_pb2.CACHE_MODE_WRITE) == MISS
        await until_kept(stack, 1)
        assert await ask(mode=chat_pb2.CACHE_MODE_WRITE) == MISS
        assert await ask(mode=chat_pb2.CACHE_MODE_READ, max_age_s=0) == MISS
        assert await ask(mode=chat_pb2.CACHE_MODE_READ, max_age_s=60) == HIT
        assert await ask(only_if_cached=True) == HIT
        for policy, words in (
            ({"mode": chat_pb2.CACHE_MODE_OFF, "only_if_cached": True}, "needs a mode that reads"),
            ({"max_age_s": -1}, "must be 0 or more"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=words):
                await ask(**policy)


async def test_over_http() -> None:
    """The field, the header, and what the reply says, whole and streamed."""
    async with running_stack(stack_config()) as stack, aiohttp.ClientSession() as client:

        async def ask(*, headers: dict[str, str] | None = None, **fields: Any) -> tuple[int, str | None, str]:
            body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 6, **fields}
            async with client.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers) as reply:
                return reply.status, reply.headers.get("x-cache"), await reply.text()

        assert (await ask())[:2] == (200, None)
        assert (await ask(cache="readwrite"))[:2] == (200, "miss")
        await until_kept(stack, 1)
        status, cache, text = await ask(cache="readwrite")
        assert (status, cache) == (200, "hit")
        usage = json.loads(text)["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"]
        assert (await ask(cache="readwrite", stream=True))[:2] == (200, "hit")
        assert (await ask(cache="readwrite", headers={"Cache-Control": "no-cache"}))[1] == "miss"
        assert (await ask(cache="readwrite", headers={"Cache-Control": "no-store"}))[1] is None
        assert (await ask(headers={"Cache-Control": "only-if-cached"}))[1] == "hit"
        status, _, text = await ask(headers={"Cache-Control": "only-if-cached"}, max_tokens=7)
        assert (status, json.loads(text)["error"]["code"]) == (504, "not_cached")


async def test_equal_requests_share_one_generation() -> None:
    """Those that come while one is generated get all of it; whoever leaves first ends nothing for the others."""
    config = stack_config(worker__simulated__step_ms=20, worker__max_running=1, worker__max_queued=0)
    async with running_stack(config) as stack:
        request = chat(temperature=0.0, max_tokens=30, ignore_eos=True, cache=BOTH, return_token_ids=True)
        leader = stub_of(stack).StreamChatCompletion(request)
        seen = [await leader.read() for _ in range(4)]
        # The worker has room for one and no queue: others would be refused.
        joiners = [asyncio.ensure_future(_whole(stack, request)) for _ in range(5)]
        await until(lambda: results(stack).get("joined") == 5)
        assert seen[0].start.cache == MISS
        leader.cancel()

        answers = await asyncio.gather(*joiners)

        assert [answer.cache for answer in answers] == [JOINED] * 5
        assert all(same(answer) == same(answers[0]) for answer in answers)
        assert answers[0].usage.completion_tokens == 30 == len(answers[0].choices[0].token_ids)
        assert answers[0].usage.cached_tokens == answers[0].usage.prompt_tokens
        await until_kept(stack, 1)
        assert (await _whole(stack, request)).cache == HIT


async def test_the_engine_stops_when_the_last_reader_leaves() -> None:
    """Nothing is generated for nobody, and an answer that was broken off is not kept."""
    config = stack_config(worker__simulated__step_ms=5)
    async with running_stack(config) as stack:
        request = chat(temperature=0.0, max_tokens=2000, ignore_eos=True, cache=BOTH)
        calls = [stub_of(stack).StreamChatCompletion(request) for _ in range(2)]
        for call in calls:
            await call.read()
            await call.read()
        assert stack.running() == 1
        calls[0].cancel()
        await calls[1].read()
        assert stack.running() == 1
        calls[1].cancel()

        await stack.until_idle()
        assert "kept" not in results(stack)
        fresh = stub_of(stack).StreamChatCompletion(request)
        assert (await fresh.read()).start.cache == MISS
        fresh.cancel()


async def test_a_reader_that_does_not_read_holds_nobody_up() -> None:
    """A joiner whose socket takes nothing leaves the others their tokens."""
    config = stack_config(worker__simulated__step_ms=1, worker__max_running=1, worker__max_queued=0)
    async with running_stack(config) as stack, aiohttp.ClientSession() as client:
        fields = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 1000}
        body = {**fields, "ignore_eos": True, "cache": "readwrite", "stream": True, "return_token_ids": True}
        async with client.post(f"{stack.url}/v1/chat/completions", json=body) as leader:
            await leader.content.readline()
            reader, writer = await asyncio.open_connection("127.0.0.1", stack.router.http_port, limit=1024)
            content = json.dumps(body).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
            writer.write(head.encode() + content)
            await until(lambda: results(stack).get("joined") == 1)

            text = await leader.text()

            assert text.endswith("data: [DONE]\n\n")
            assert b"x-cache: joined" in (await reader.read(1024)).lower()
            writer.close()


async def _whole(stack: Stack, request: chat_pb2.ChatCompletionRequest) -> chat_pb2.ChatCompletion:
    answer: chat_pb2.ChatCompletion = await stub_of(stack).CreateChatCompletion(request)
    return answer


@pytest.mark.skipif(bool(why_none()), reason=why_none() or "-")
@pytest.mark.parametrize("key", ["", "00" * 32], ids=["plain", "encrypted"])
async def test_routers_share_what_they_keep(key: str) -> None:
    """What one router has answered another one knows; what lies there is readable only where no key is set."""
    if key:
        pytest.importorskip("cryptography", reason="encryption needs the cryptography package")
    async with running_redis() as server:
        config = stack_config(store__url=server.url, store__timeout_s=5, store__encryption_key=key, router__workers=[])
        request = chat(temperature=0.0, max_tokens=6, cache=BOTH)
        async with running_stack(config) as one:
            first = await _whole(one, request)
            await until_kept(one, 1)
        async with running_stack(config) as two:
            second = await _whole(two, request)

            assert (first.cache, second.cache) == (MISS, HIT)
            assert same(second) == same(first)
            # Bytes that are none of ours: as if there were nothing.
            keys = await server.command("EVAL", "return #redis.call('KEYS', 'qwenserve:v:answer:*')", "0")
            assert keys == ":1"
            spoil = "for _, k in ipairs(redis.call('KEYS', '*answer*')) do redis.call('SET', k, 'spoiled') end return 1"
            await server.command("EVAL", spoil, "0")
            third = await _whole(two, request)
            assert third.cache == MISS
            assert same(third) == same(first)


@pytest.mark.skipif(bool(why_none()), reason=why_none() or "-")
async def test_a_router_in_a_hurry_asks_only_for_what_may_be_kept() -> None:
    """New prompts are answered without asking the store; what another router keeps meanwhile is still found."""
    async with running_redis() as server:
        config = stack_config(store__url=server.url, store__timeout_s=5, router__workers=[])
        read = chat_pb2.CachePolicy(mode=chat_pb2.CACHE_MODE_READ)
        async with running_stack(config) as hurried, running_stack(config) as other:
            before = chat("kept before", temperature=0.0, max_tokens=3, cache=BOTH)
            await _whole(other, before)
            await until_kept(other, 1)
            number = 0
            while not counted(hurried, "qwenserve_answer_cache_unasked_total"):
                burst = [chat(f"new {number + more}", temperature=0.0, max_tokens=1, cache=read) for more in range(32)]
                answers = await asyncio.gather(*(_whole(hurried, each) for each in burst))
                assert {answer.cache for answer in answers} == {MISS}
                number += len(burst)
            assert (await _whole(hurried, before)).cache == HIT
            later = chat("kept meanwhile", temperature=0.0, max_tokens=3, cache=BOTH)
            await _whole(other, later)
            await until_kept(other, 2)
            later.cache.CopyFrom(read)
            while (await _whole(hurried, later)).cache != HIT:
                pass  # for no longer than what is known is believed


def test_the_default_is_off() -> None:
    """A deployment that says nothing keeps nothing."""
    assert stack_config().cache.mode == "off"
