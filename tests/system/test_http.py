"""The OpenAI face over a real router and real workers with the simulated engine."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from qwenserve.router.chat import answer as answer_module
from qwenserve.router.chat import service
from qwenserve.text.assets import load_assets
from qwenserve.worker.engine_choice import BuiltEngine
from tests.system.scripted_engine import ScriptedEngine
from tests.system.stack import TINY, Stack, running_stack, stack_config, until

CHAT = {"messages": [{"role": "user", "content": "你好，你是谁？"}]}
ENDLESS = {**CHAT, "max_tokens": 4000, "ignore_eos": True}


pytestmark = pytest.mark.asyncio(loop_scope="module")


class Face(NamedTuple):
    """The HTTP API in one of its two forms, and the deployment behind it."""

    url: str
    stack: Stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_stack() -> AsyncIterator[Stack]:
    """For requests that leave nothing behind; a shim stands in front of its router."""
    async with running_stack(stack_config(), apart=True) as running:
        yield running


@pytest.fixture(params=["router", "shim"])
def face(request: pytest.FixtureRequest, shared_stack: Stack) -> Face:
    router = f"http://127.0.0.1:{shared_stack.router.http_port}"
    return Face(shared_stack.url if request.param == "shim" else router, shared_stack)


@pytest_asyncio.fixture(loop_scope="module")
async def slow_stack() -> AsyncIterator[Stack]:
    """One token every 20 ms: slow enough that a test can act in the middle of an answer."""
    async with running_stack(stack_config(worker__simulated__step_ms=20)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_what_no_engine_can_be_bound_to_is_refused_with_a_remedy(client: aiohttp.ClientSession) -> None:
    """Where no engine follows guides, a call that must be made is refused, and the remedy named."""
    assets = load_assets(TINY)
    engine = ScriptedEngine(assets.tokenizer, min(assets.eos_token_ids), max_model_len=8192)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    async with running_stack(stack_config(), built=BuiltEngine(engine, "")) as stack:
        for choice in ("required", tools[0]):
            asked = {**CHAT, "tools": tools, "tool_choice": choice}
            async with client.post(f"{stack.url}/v1/chat/completions", json=asked) as reply:
                error = (await reply.json())["error"]

            assert (reply.status, error["param"], error["code"]) == (400, "tool_choice", "unsupported")
            assert "use 'auto'" in error["message"]


async def first_event(response: aiohttp.ClientResponse) -> dict[str, Any]:
    async for line in response.content:
        if line.startswith(b"data: "):
            return json.loads(line[6:])  # type: ignore[no-any-return]
    raise AssertionError("the stream ended without an event")


@pytest.mark.parametrize("apart", [False, True], ids=["router", "shim"])
async def test_a_client_that_leaves_a_stream_stops_the_engine(apart: bool, client: aiohttp.ClientSession) -> None:
    async with running_stack(stack_config(worker__simulated__step_ms=20), apart=apart) as slow_stack:
        await _leave_a_stream(slow_stack, client)


async def _leave_a_stream(slow_stack: Stack, client: aiohttp.ClientSession) -> None:
    response = await client.post(f"{slow_stack.url}/v1/chat/completions", json={**ENDLESS, "stream": True, "n": 2})
    await first_event(response)
    assert slow_stack.running() == 2

    response.close()

    await slow_stack.until_idle()


async def test_a_client_that_leaves_a_whole_answer_stops_the_engine(slow_stack: Stack) -> None:
    async with aiohttp.ClientSession() as client:
        post = asyncio.ensure_future(client.post(f"{slow_stack.url}/v1/chat/completions", json=ENDLESS))
        await until(lambda: slow_stack.running() == 1)

        post.cancel()

        await slow_stack.until_idle()


@pytest.mark.parametrize("exact", [True, False], ids=["by its own timer", "by looks at all answers"])
async def test_a_deadline_in_the_header_stops_the_engine(
    exact: bool, slow_stack: Stack, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exact:
        monkeypatch.setattr(answer_module, "_EXACT_S", 0.0)
        monkeypatch.setattr(service, "_LOOK_S", 0.05)
    response = await client.post(
        f"{slow_stack.url}/v1/chat/completions", json=ENDLESS, headers={"x-request-timeout": "0.2"}
    )

    assert response.status == 504
    assert (await response.json())["error"]["code"] == "deadline_exceeded"
    await slow_stack.until_idle()


async def test_a_worker_that_dies_becomes_one_error_event(client: aiohttp.ClientSession) -> None:
    async with running_stack(
        stack_config(worker__simulated__step_ms=20, router__worker_wait_s=0, router__continuation_wait_s=0)
    ) as stack:
        response = await client.post(f"{stack.url}/v1/chat/completions", json={**ENDLESS, "stream": True})
        await first_event(response)

        await stack.workers[0].stop()
        events = [line[6:].strip() async for line in response.content if line.startswith(b"data: ")]

        assert b"[DONE]" not in events
        errors = [json.loads(event)["error"] for event in events if b'"error"' in event]
        assert len(errors) == 1
        assert errors[0]["type"] == "server_error"

        await until(lambda: not stack.router.sessions[0].ready)
        refused = await client.post(f"{stack.url}/v1/chat/completions", json=CHAT)
        ready = await client.get(f"{stack.url}/readyz")
        alive = await client.get(f"{stack.url}/healthz")

    assert (refused.status, (await refused.json())["error"]["code"]) == (503, "no_worker")
    assert (ready.status, alive.status) == (503, 200)


async def test_a_full_queue_is_a_429_with_a_time_to_wait(client: aiohttp.ClientSession) -> None:
    config = stack_config(worker__simulated__step_ms=20, worker__max_running=1, worker__max_queued=0)
    async with running_stack(config) as stack:
        blocking = await client.post(f"{stack.url}/v1/chat/completions", json={**ENDLESS, "stream": True})
        await first_event(blocking)

        for stream in (False, True):
            refused = await client.post(f"{stack.url}/v1/chat/completions", json={**CHAT, "stream": stream})
            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert (await refused.json())["error"]["type"] == "rate_limit_error"
        blocking.close()


async def test_a_prompt_over_the_window_is_refused_with_both_numbers_before_any_engine_work(
    slow_stack: Stack, client: aiohttp.ClientSession
) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 9000}]}
    response = await client.post(f"{slow_stack.url}/v1/chat/completions", json=long)
    error = (await response.json())["error"]

    assert response.status == 400
    assert error["code"] == "context_length_exceeded"
    assert "8192" in error["message"]
    assert slow_stack.router.sessions[0].load.sequence <= 1


async def test_thinking_is_switched_three_ways_with_the_same_ids(
    slow_stack: Stack, client: aiohttp.ClientSession
) -> None:
    async def ids(stack: Stack, **fields: Any) -> list[int]:
        response = await client.post(f"{stack.url}/explain", json={**CHAT, **fields})
        return (await response.json())["token_ids"]  # type: ignore[no-any-return]

    on = await ids(slow_stack)
    off = await ids(slow_stack, enable_thinking=False)
    async with running_stack(stack_config(model__enable_thinking=False)) as configured:
        by_configuration = await ids(configured)

    assert len(off) == len(on) + 4
    assert off == await ids(slow_stack, chat_template_kwargs={"enable_thinking": False}) == by_configuration


async def test_metrics_count_what_happened(slow_stack: Stack, client: aiohttp.ClientSession) -> None:
    body = {**CHAT, "max_tokens": 5, "ignore_eos": True}
    await (await client.post(f"{slow_stack.url}/v1/chat/completions", json=body)).read()
    await (await client.post(f"{slow_stack.url}/v1/chat/completions", json={**CHAT, "temperature": 9})).read()

    text = await (await client.get(f"{slow_stack.url}/metrics")).text()

    assert 'qwenserve_requests_total{kind="chat",outcome="ok"} 1.0' in text
    assert 'qwenserve_errors_total{reason="INVALID_REQUEST"} 1.0' in text
    assert "qwenserve_completion_tokens_total 5.0" in text
    assert "qwenserve_time_to_first_token_seconds_count 1.0" in text
    assert 'qwenserve_worker_ready{worker="worker-0"} 1.0' in text
    assert re.search(r"^qwenserve_token_cache_bytes [1-9]", text, re.MULTILINE)


async def test_a_key_is_wanted_where_configured() -> None:
    openai = pytest.importorskip("openai", reason="the official client of OpenAI's API is not installed")
    async with running_stack(stack_config(auth__keys=["sesame"])) as stack:
        base = f"{stack.url}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key="wrong", max_retries=0) as wrong:
            with pytest.raises(openai.AuthenticationError):
                await wrong.models.list()
        async with openai.AsyncOpenAI(base_url=base, api_key="sesame", max_retries=0) as right:
            models = await right.models.list()

    assert [model.id for model in models.data] == ["qwen3-tiny"]


async def test_every_name_of_a_model_is_listed_and_found() -> None:
    openai = pytest.importorskip("openai", reason="the official client of OpenAI's API is not installed")
    async with (
        running_stack(stack_config(model__aliases=["mine"])) as stack,
        openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client,
    ):
        listed = [model.id for model in (await client.models.list()).data]
        found = (await client.models.retrieve("MINE")).id
        answer = await client.completions.create(model="mine", prompt="Once", max_tokens=1)

    assert listed == ["qwen3-tiny", "mine"]
    assert found == "mine"
    assert answer.model == "qwen3-tiny"


async def test_a_client_that_does_not_read_loses_its_answer_and_nobody_elses() -> None:
    config = stack_config(http__write_buffer_bytes=4096, worker__max_running=16)
    async with running_stack(config) as stack, aiohttp.ClientSession() as client:
        # A small receive buffer, so that the unread bytes pile up on the sending side.
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", stack.router.http_port))
            body = json.dumps({**ENDLESS, "max_tokens": 8000, "stream": True, "n": 16}).encode()
            deaf.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            await until(lambda: stack.running() == 16)
            await stack.until_idle()

            other = await client.post(f"{stack.url}/v1/chat/completions", json={**CHAT, "max_tokens": 3})
            metrics = await (await client.get(f"{stack.url}/metrics")).text()

    assert other.status == 200
    assert 'qwenserve_requests_total{kind="chat",outcome="cancelled"} 1.0' in metrics


@pytest.mark.parametrize("stream", [False, True])
async def test_an_echo_with_logprobs_has_those_of_the_prompt_first(
    stream: bool, face: Face, client: aiohttp.ClientSession
) -> None:
    """What evaluation harnesses slice: without the prompt's, they would take the answer's for them."""
    body = {"prompt": [[100 + n for n in range(8)]], "temperature": 0, "max_tokens": 3, "logprobs": 2, "echo": True}
    async with client.post(face.url + "/v1/completions", json={**body, "stream": stream}) as reply:
        assert reply.status == 200, await reply.text()
        if stream:
            lines = [line.removeprefix("data: ") for line in (await reply.text()).split("\n\n") if line]
            choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
        else:
            choices = (await reply.json())["choices"]

    text = "".join(choice["text"] for choice in choices)
    parts = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    tokens, values, tops, offsets = (
        [item for part in parts for item in part[name]]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    )
    assert "".join(tokens) == text
    assert len(tokens) == 8 + 3
    assert (values[0], tops[0]) == (None, None)
    assert all(value <= 0 for value in values[1:])
    assert all(token in top and 2 <= len(top) <= 3 for token, top in zip(tokens[1:], tops[1:], strict=True))
    assert offsets == [len("".join(tokens[:n])) for n in range(len(tokens))]


async def test_those_of_a_long_prompt_are_streamed_in_pieces(slow_stack: Stack, client: aiohttp.ClientSession) -> None:
    """No single piece of work on the event loop grows with the prompt, and what comes is the same."""
    body = {"prompt": [n % 1000 for n in range(600)], "max_tokens": 2, "temperature": 0, "logprobs": 20, "echo": True}
    async with client.post(slow_stack.url + "/v1/completions", json=body) as reply:
        (whole,) = (await reply.json())["choices"]
    async with client.post(slow_stack.url + "/v1/completions", json={**body, "stream": True}) as reply:
        lines = [line.removeprefix("data: ") for line in (await reply.text()).split("\n\n") if line]

    choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
    parts = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    for name, values in whole["logprobs"].items():
        assert [value for part in parts for value in part[name]] == values
    assert max(len(part["tokens"]) for part in parts) <= 100


async def test_a_chats_prompt_has_logprobs_once(slow_stack: Stack, client: aiohttp.ClientSession) -> None:
    asked = {**CHAT, "max_tokens": 2, "n": 2, "prompt_logprobs": 1, "return_token_ids": True}
    async with client.post(slow_stack.url + "/v1/chat/completions", json=asked) as reply:
        assert reply.status == 200, await reply.text()
        answer = await reply.json()
    async with client.post(slow_stack.url + "/v1/chat/completions", json={**asked, "stream": True}) as reply:
        streamed = await reply.json()

    first, *others = answer["prompt_logprobs"]
    assert first is None
    assert [next(iter(each)) for each in others] == [str(token_id) for token_id in answer["prompt_token_ids"][1:]]
    assert [(choice["logprobs"], "prompt_logprobs" in choice) for choice in answer["choices"]] == [(None, False)] * 2
    assert (reply.status, streamed["error"]["param"]) == (400, "prompt_logprobs")


@pytest.mark.parametrize("echo", [False, True])
async def test_prompt_logprobs_are_a_member_of_their_own(echo: bool, face: Face, client: aiohttp.ClientSession) -> None:
    """In vLLM's form, with alternatives of their own number, and none of them among those of the answer."""
    ids = [100 + n for n in range(8)]
    body = {"prompt": ids, "temperature": 0, "max_tokens": 3, "prompt_logprobs": 3, "echo": echo, "logprobs": 1}
    async with client.post(face.url + "/v1/completions", json=body) as reply:
        assert reply.status == 200, await reply.text()
        (choice,) = (await reply.json())["choices"]

    first, *others = choice["prompt_logprobs"]
    assert first is None
    assert [next(iter(each)) for each in others] == [str(token_id) for token_id in ids[1:]]
    for each in others:
        assert sorted(item["rank"] for item in each.values() if item["rank"]) == [1, 2, 3]
        assert all(item["logprob"] <= 0 and item["decoded_token"] for item in each.values())
    assert len(choice["logprobs"]["tokens"]) == (8 if echo else 0) + 3
    assert all(len(top) <= 2 for top in choice["logprobs"]["top_logprobs"] if top is not None)


async def test_prompt_logprobs_alone(face: Face, client: aiohttp.ClientSession) -> None:
    body = {"prompt": ["one two", "three"], "n": 2, "max_tokens": 2, "prompt_logprobs": 0}
    async with client.post(face.url + "/v1/completions", json=body) as reply:
        choices = (await reply.json())["choices"]
    async with client.post(face.url + "/v1/completions", json={**body, "stream": True}) as reply:
        streamed = await reply.json()

    assert [choice["logprobs"] for choice in choices] == [None] * 4
    for choice, same in zip(choices[::2], choices[1::2], strict=True):
        assert choice["prompt_logprobs"] == same["prompt_logprobs"]
        assert all(len(each) == 1 for each in choice["prompt_logprobs"][1:])
    assert (reply.status, streamed["error"]["param"]) == (400, "prompt_logprobs")


async def test_counts_so_far_end_as_the_counts_of_the_whole(slow_stack: Stack, client: aiohttp.ClientSession) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {**CHAT, "max_tokens": 5, "stream": True, "stream_options": options}
    async with client.post(f"{slow_stack.url}/v1/chat/completions", json=body) as reply:
        lines = (await reply.text()).split("\n\n")
    *chunks, last = [json.loads(line.removeprefix("data: ")) for line in lines if line and "[DONE]" not in line]

    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1], last["usage"]["completion_tokens"]) == (0, 5, 5)
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {last["usage"]["prompt_tokens"]}


@pytest.mark.parametrize("stream", [False, True])
async def test_no_tokens_and_an_echo_score_a_prompt(stream: bool, face: Face, client: aiohttp.ClientSession) -> None:
    """What evaluation harnesses ask for to score a text: nothing is generated, and nothing is charged for."""
    body = {"prompt": "one two three", "max_tokens": 0, "logprobs": 1, "echo": True, "n": 2}
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    async with client.post(face.url + "/v1/completions", json={**body, **options}) as reply:
        assert reply.status == 200, await reply.text()
        lines = (await reply.text()).split("\n\n") if stream else [await reply.text()]
    parts = [json.loads(line.removeprefix("data: ")) for line in lines if line and "[DONE]" not in line]
    (usage,) = [part["usage"] for part in parts if part.get("usage")]

    assert (usage["prompt_tokens"] > 0, usage["completion_tokens"]) == (True, 0)
    for index in (0, 1):
        choices = [each for part in parts for each in part["choices"] if each["index"] == index]
        tokens = [token for each in choices if each["logprobs"] for token in each["logprobs"]["tokens"]]
        assert "".join(each["text"] for each in choices) == "".join(tokens) == "one two three"
        assert choices[-1]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "one"}),
        ("/v1/chat/completions", CHAT),
    ],
)
async def test_no_tokens_and_nothing_to_answer_is_refused(
    path: str, body: dict[str, Any], face: Face, client: aiohttp.ClientSession
) -> None:
    async with client.post(face.url + path, json={**body, "max_tokens": 0}) as reply:
        assert (reply.status, (await reply.json())["error"]["param"]) == (400, "max_tokens")
    await face.stack.until_idle()


async def test_each_choice_of_each_prompt_has_its_own(face: Face, client: aiohttp.ClientSession) -> None:
    body = {"prompt": ["one two", "three"], "n": 2, "max_tokens": 2, "logprobs": 0, "echo": True}
    async with client.post(face.url + "/v1/completions", json=body) as reply:
        choices = (await reply.json())["choices"]

    for choice in choices:
        logprobs = choice["logprobs"]
        assert "".join(logprobs["tokens"]) == choice["text"]
        assert [value is None for value in logprobs["token_logprobs"]].count(True) == 1


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {**CHAT, "max_completion_tokens": 0}, "max_completion_tokens"),
        ("/v1/chat/completions", {**CHAT, "thinking_token_budget": -1}, "thinking_token_budget"),
        ("/v1/chat/completions", {**CHAT, "thinking_budget": -1, "thinking_token_budget": 1}, "thinking_budget"),
        ("/v1/chat/completions", {**CHAT, "prompt_cache_key": "x" * 300}, "prompt_cache_key"),
        ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 30}, "top_logprobs"),
        ("/v1/completions", {"prompt": "a", "logprobs": 30}, "logprobs"),
        ("/v1/completions", {"prompt": [5] * 9000}, "prompt"),
        ("/v1/completions", {"prompt": ["a", [5] * 9000]}, "prompt[1]"),
        ("/explain", {"prompt": "a", "logprobs": 30}, "logprobs"),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 0}, "max_output_tokens"),
        ("/v1/responses", {"input": "word " * 9000}, "input"),
        ("/v1/responses", {"input": "word " * 9000, "instructions": "Be kind."}, "input"),
        ("/v1/responses", {"input": "hi", "reasoning": {"effort": "odd"}}, "reasoning"),
        ("/v1/messages", {**CHAT, "max_tokens": 5, "stop_sequences": [""]}, "stop_sequences"),
        ("/v1/messages", {**CHAT, "max_tokens": 5, "metadata": {"user_id": "x" * 600}}, "metadata"),
        ("/detokenize", {"tokens": [1, 2**30]}, "tokens"),
    ],
)
async def test_errors_name_fields_as_they_were_sent(
    path: str, body: dict[str, Any], param: str, slow_stack: Stack, client: aiohttp.ClientSession
) -> None:
    """Whatever the router calls them: a face may have another name for a field, or several."""
    async with client.post(slow_stack.url + path, json=body) as reply:
        error = (await reply.json())["error"]

    assert (reply.status, error["param"]) == (400, param)


async def test_an_error_repeats_little_of_a_huge_name(slow_stack: Stack, client: aiohttp.ClientSession) -> None:
    async with client.post(slow_stack.url + "/v1/chat/completions", json={**CHAT, "model": "x" * 500_000}) as reply:
        error = (await reply.json())["error"]

    assert (reply.status, error["param"]) == (404, "model")
    assert len(error["message"]) < 2_000
    assert "does not exist" in error["message"]


async def test_the_fingerprint_is_the_same_whole_and_streamed(face: Face, client: aiohttp.ClientSession) -> None:
    body = {**CHAT, "max_tokens": 2}
    async with client.post(f"{face.url}/v1/chat/completions", json=body) as reply:
        whole = (await reply.json())["system_fingerprint"]
    async with client.post(f"{face.url}/v1/chat/completions", json={**body, "stream": True}) as reply:
        streamed = (await first_event(reply))["system_fingerprint"]

    assert whole == streamed
    assert re.fullmatch(r"fp_[0-9a-f]{10}", whole)
