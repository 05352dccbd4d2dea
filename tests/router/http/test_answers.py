"""Whole and streamed answers, byte for byte where it matters."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from qwenserve.runtime.errors import InternalError, QueueFull
from tests.router.http.conftest import Served
from tests.router.http.fake_backend import Script

ASK = {"messages": [{"role": "user", "content": "hi"}]}
TOOLS = Script("Sure.", "let me see", (("look", '{"city": "Köln"}'), ("now", "{}")))


async def stream(http: aiohttp.ClientSession, either: Served, path: str, body: dict[str, Any]) -> list[Any]:
    """Returns the chunks of a streamed answer; the last one may be the word that ends it."""
    async with http.post(either.url + path, json={**body, "stream": True}) as reply:
        assert reply.status == 200, await reply.text()
        assert reply.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        text = (await reply.read()).decode()
    events = text.split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    payloads = [event.removeprefix("data: ") for event in events]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


async def chat(http: aiohttp.ClientSession, either: Served, **fields: Any) -> list[Any]:
    return await stream(http, either, "/v1/chat/completions", {**ASK, **fields})


# Null and not absent: usual clients read the attributes without asking.
OPENING = {"role": "assistant", "content": "", "reasoning_content": None, "refusal": None}


async def test_a_stream_has_openais_form(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.script = lambda _: Script('Say "你好"\n👋', reasoning="hm")
    *chunks, done = await chat(http, either)

    assert done == "[DONE]"
    assert {("chatcmpl-1", 1_700_000_000, "fake-model", "chat.completion.chunk")} == {
        (chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks
    }
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == OPENING
    assert deltas[1] == {"reasoning_content": "hm", "reasoning": "hm"}
    assert "".join(delta.get("content", "") for delta in deltas) == 'Say "你好"\n👋'
    assert deltas[-1] == {}
    assert [None] * (len(chunks) - 1) + ["stop"] == [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_last_and_only_if_asked_for(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.script = lambda _: Script("four", reasoning="so")
    *chunks, last, done = await chat(http, either, stream_options={"include_usage": True})

    assert done == "[DONE]"
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 6,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


@pytest.mark.parametrize("shown", [{}, {"include_reasoning": False}, {"return_token_ids": True}])
async def test_every_chunk_tells_the_counts_so_far_if_asked_for(
    shown: dict[str, bool], either: Served, http: aiohttp.ClientSession
) -> None:
    """What belongs to a choice: its own prompt and its own tokens, those of a thought that is not shown too."""
    either.backend.script = lambda _: Script("four five", reasoning="so")
    asked = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}, "n": 2, **shown}
    *chunks, last, _ = await chat(http, either, **asked)

    for index in range(2):
        own = [chunk for chunk in chunks if chunk["choices"][0]["index"] == index]
        counts = [chunk["usage"]["completion_tokens"] for chunk in own]
        assert counts[0] == 0
        assert counts == sorted(counts)
        assert counts[-1] == len("so" + "four five")
        for chunk in own:
            usage, choice = chunk["usage"], chunk["choices"][0]
            assert usage["total_tokens"] == 2 + usage["completion_tokens"]
            assert ("token_ids" in choice) == (shown.get("return_token_ids", False) and choice["delta"] != OPENING)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 22)


async def test_a_completions_chunks_count_their_own_prompt(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.script = lambda _: Script("ok")
    body = {"prompt": ["a", "three"], "n": 2, "stream_options": {"continuous_usage_stats": True}}
    *chunks, _ = await stream(http, either, "/v1/completions", body)

    prompts = {chunk["choices"][0]["index"]: chunk["usage"]["prompt_tokens"] for chunk in chunks}
    assert prompts == {0: 1, 1: 1, 2: 5, 3: 5}


async def test_every_choice_begins_and_ends_once(either: Served, http: aiohttp.ClientSession) -> None:
    chunks = [chunk["choices"][0] for chunk in (await chat(http, either, n=3))[:-1]]

    for index in range(3):
        own = [chunk for chunk in chunks if chunk["index"] == index]
        assert own[0]["delta"] == OPENING
        assert "".join(chunk["delta"].get("content", "") for chunk in own) == "You said: hi"
        assert [chunk["finish_reason"] for chunk in own if chunk["finish_reason"]] == ["stop"]


async def test_tool_calls_are_streamed_by_index(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.script = lambda _: TOOLS
    chunks = [chunk["choices"][0] for chunk in (await chat(http, either))[:-1]]

    pieces = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", ())]
    starts = [piece for piece in pieces if "id" in piece]
    assert starts == [
        {"index": 0, "id": "call_0_0", "type": "function", "function": {"name": "look", "arguments": ""}},
        {"index": 1, "id": "call_0_1", "type": "function", "function": {"name": "now", "arguments": ""}},
    ]
    for index, (_, arguments) in enumerate(TOOLS.tool_calls):
        assert arguments == "".join(p["function"]["arguments"] for p in pieces if p["index"] == index)
    assert chunks[-1]["finish_reason"] == "tool_calls"


async def test_the_whole_answer_is_the_streams_fold(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.script = lambda _: TOOLS
    asked = {**ASK, "logprobs": True, "top_logprobs": 2, "return_token_ids": True, "reasoning_logprobs": True}
    async with http.post(either.url + "/v1/chat/completions", json=asked) as reply:
        whole = await reply.json()
    chunks = (await chat(http, either, **asked))[:-1]

    message = whole["choices"][0]["message"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    for key in ("content", "reasoning", "reasoning_content"):
        assert message[key] == "".join(delta.get(key) or "" for delta in deltas)
    choices = [chunk["choices"][0] for chunk in chunks]
    reported = [item for choice in choices if choice["logprobs"] for item in choice["logprobs"]["content"]]
    assert whole["choices"][0]["logprobs"]["content"] == reported
    assert whole["choices"][0]["token_ids"] == [i for choice in choices for i in choice.get("token_ids", ())]
    assert whole["prompt_token_ids"] == chunks[0]["prompt_token_ids"] == [104, 105]
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    assert [(call["id"], call["function"]["name"]) for call in message["tool_calls"]] == [
        ("call_0_0", "look"),
        ("call_0_1", "now"),
    ]


async def test_chat_logprobs_have_bytes_and_finite_numbers(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.script = lambda _: Script("é")
    async with http.post(
        either.url + "/v1/chat/completions", json={**ASK, "logprobs": True, "top_logprobs": 2}
    ) as reply:
        items = (await reply.json())["choices"][0]["logprobs"]["content"]

    assert [item["bytes"] for item in items] == [[0xC3], [0xA9]]
    assert [top["logprob"] for top in items[0]["top_logprobs"]] == [-0.5, -9999.0]


async def test_completion_logprobs_count_from_the_texts_beginning(either: Served, http: aiohttp.ClientSession) -> None:
    body = {"prompt": "one ", "echo": True, "logprobs": 1, "max_tokens": 6}
    async with http.post(either.url + "/v1/completions", json=body) as reply:
        whole = (await reply.json())["choices"][0]
    chunks = (await stream(http, either, "/v1/completions", body))[:-1]

    assert (whole["text"], whole["finish_reason"]) == ("one and so", "length")
    assert {
        "tokens": list("and so"),
        "token_logprobs": [-0.5] * 6,
        "top_logprobs": [{letter: -0.5} for letter in "and so"],
        "text_offset": [4, 5, 6, 7, 8, 9],
    } == whole["logprobs"]
    offsets = [o for c in chunks if c["choices"][0]["logprobs"] for o in c["choices"][0]["logprobs"]["text_offset"]]
    assert whole["logprobs"]["text_offset"] == offsets


async def test_completion_streams_have_prompt_ids_first(either: Served, http: aiohttp.ClientSession) -> None:
    body = {"prompt": ["a", "b"], "return_token_ids": True}
    chunks = [chunk["choices"][0] for chunk in (await stream(http, either, "/v1/completions", body))[:-1]]

    assert [chunk["prompt_token_ids"] for chunk in chunks if "prompt_token_ids" in chunk] == [[97], [98]]
    for index in (0, 1):
        own = [chunk for chunk in chunks if chunk["index"] == index]
        assert list(b"and so on") == [i for chunk in own for i in chunk["token_ids"]]
        assert "".join(chunk["text"] for chunk in own) == "and so on"


async def test_a_stop_string_is_named(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.script = lambda _: Script("so far", stop_string='"END"')
    chunks = await chat(http, either)
    async with http.post(either.url + "/v1/chat/completions", json=ASK) as reply:
        whole = (await reply.json())["choices"][0]

    last = chunks[-2]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", '"END"')
    assert (whole["finish_reason"], whole["stop_reason"]) == ("stop", '"END"')


async def test_an_error_before_the_first_event_is_the_reply(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.fail_at_step = 0
    either.backend.failure = QueueFull("all workers are full", retry_after_s=0.2)
    async with http.post(either.url + "/v1/chat/completions", json={**ASK, "stream": True}) as reply:
        error = (await reply.json())["error"]

    assert (reply.status, reply.headers["Retry-After"], reply.headers["retry-after-ms"]) == (429, "1", "200")
    assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")


async def test_an_error_after_it_is_the_last_event(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.fail_at_step = 2
    either.backend.failure = InternalError("the engine\nbroke")
    chunks = await chat(http, either)

    assert chunks[-1]["error"] == {
        "message": "the engine\nbroke",
        "type": "server_error",
        "param": None,
        "code": "internal",
    }
    assert [chunk for chunk in chunks[:-1] if "error" in chunk or chunk == "[DONE]"] == []


async def test_a_defect_hides_its_inside(
    either: Served, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    either.backend.refusal = RuntimeError("secret")
    async with http.post(either.url + "/v1/chat/completions", json=ASK) as reply:
        text = await reply.text()

    assert reply.status == 500
    assert "secret" not in text
    assert json.loads(text)["error"]["code"] == "internal"
    assert {record.message for record in caplog.records} & {"request_failed", "chat_failed"}


async def test_a_message_without_a_thought_says_so(either: Served, http: aiohttp.ClientSession) -> None:
    async with http.post(either.url + "/v1/chat/completions", json=ASK) as reply:
        message = (await reply.json())["choices"][0]["message"]

    assert message == {"role": "assistant", "content": "You said: hi", "refusal": None, "reasoning_content": None}


@pytest.mark.parametrize(("asked", "tokens"), [({}, "ok"), ({"reasoning_logprobs": True}, "hmmok")])
async def test_log_probabilities_are_those_of_the_content_unless_thought_is_asked_for(
    asked: dict[str, Any], tokens: str, either: Served, http: aiohttp.ClientSession
) -> None:
    either.backend.script = lambda _: Script("ok", reasoning="hmm")
    body = {**ASK, "logprobs": True, **asked}
    async with http.post(either.url + "/v1/chat/completions", json=body) as reply:
        whole = (await reply.json())["choices"][0]["logprobs"]["content"]
    chunks = [chunk["choices"][0] for chunk in (await chat(http, either, **body))[:-1]]

    streamed = [item for chunk in chunks if chunk["logprobs"] for item in chunk["logprobs"]["content"]]
    assert whole == streamed
    assert "".join(item["token"] for item in whole) == tokens


async def test_thought_text_can_be_left_out(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.script = lambda _: Script("fine", reasoning="let me see")
    for asked in (
        {"include_reasoning": False},
        {"reasoning": {"exclude": True}},
        {"include_reasoning": False, "logprobs": True},
    ):
        async with http.post(either.url + "/v1/chat/completions", json={**ASK, **asked}) as reply:
            message = (await reply.json())["choices"][0]["message"]
        chunks = [chunk["choices"][0]["delta"] for chunk in (await chat(http, either, **asked))[:-1]]

        assert (message["content"], message["reasoning_content"]) == ("fine", None)
        assert "".join(delta.get("content") or "" for delta in chunks) == "fine"
        assert not any(delta.get("reasoning_content") for delta in chunks)


async def test_tokens_can_be_named_by_their_ids(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.script = lambda _: Script("hi")
    asked = {"logprobs": True, "top_logprobs": 1, "return_tokens_as_token_ids": True}
    async with http.post(either.url + "/v1/chat/completions", json={**ASK, **asked}) as reply:
        items = (await reply.json())["choices"][0]["logprobs"]["content"]

    assert [item["token"] for item in items] == ["token_id:104", "token_id:105"]
    assert all(item["top_logprobs"][0]["token"].startswith("token_id:") for item in items)


async def test_the_token_itself_is_among_a_completions_alternatives(
    either: Served, http: aiohttp.ClientSession
) -> None:
    either.backend.script = lambda _: Script("hi")
    async with http.post(either.url + "/v1/completions", json={"prompt": "a", "logprobs": 0}) as reply:
        logprobs = (await reply.json())["choices"][0]["logprobs"]

    assert [list(tops) for tops in logprobs["top_logprobs"]] == [["h"], ["i"]]
    assert [tops[token] for tops, token in zip(logprobs["top_logprobs"], logprobs["tokens"], strict=True)] == (
        logprobs["token_logprobs"]
    )
