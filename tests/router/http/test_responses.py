"""The face of OpenAI's Responses API: the official client, the table of fields, and what becomes of items."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.http.responses.answers import ResponseStream
from qwenserve.router.http.responses.fields import TABLE
from qwenserve.router.http.transport.field_rows import Effect, Field
from qwenserve.runtime.errors import InternalError, QueueFull, ServiceError
from tests.router.http.conftest import Served
from tests.router.http.fake_backend import Request, Script
from tests.router.http.fake_target import target
from tests.router.http.responses_checks import CHECKS
from tests.router.http.target import Target

ASK: dict[str, Any] = {"model": "fake-model", "input": "hi"}


async def post(either: Served, http: aiohttp.ClientSession, **fields: Any) -> tuple[int, Any, Any]:
    async with http.post(f"{either.url}/v1/responses", json={**ASK, **fields}) as reply:
        return reply.status, await reply.json(), reply.headers


def sent(either: Served) -> chat_pb2.ChatCompletionRequest:
    request = either.backend.requests[-1]
    assert isinstance(request, chat_pb2.ChatCompletionRequest)
    return request


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_official_client(check: Callable[[Target], Awaitable[None]], either: Served) -> None:
    await check(target(either))


@pytest.mark.parametrize("row", [row for row in TABLE if row.effect is Effect.APPLIED], ids=lambda row: row.name)
async def test_an_applied_field_has_an_effect(row: Field, either: Served, http: aiohttp.ClientSession) -> None:
    beside = {"include": ["message.output_text.logprobs"]} if row.name == "top_logprobs" else {}
    await post(either, http)
    status, body, headers = await post(either, http, **{row.name: row.example}, **beside)

    assert (status, headers.get("x-ignored-params")) == (200, None), body
    plain, changed = either.backend.requests
    plain.request_id = changed.request_id = ""
    assert (plain != changed) is not (row.name in ASK or row.target.startswith("shim."))


@pytest.mark.parametrize("row", [row for row in TABLE if row.effect is Effect.REFUSED], ids=lambda row: row.name)
async def test_a_refused_field_is_named_with_its_reason(
    row: Field, either: Served, http: aiohttp.ClientSession
) -> None:
    status, body, _ = await post(either, http, **{row.name: row.example})

    assert (status, body["error"]["param"], body["error"]["code"]) == (400, row.name, "unsupported")
    assert row.note in body["error"]["message"]


@pytest.mark.parametrize("row", [row for row in TABLE if row.effect is Effect.IGNORED], ids=lambda row: row.name)
async def test_an_ignored_field_is_listed(row: Field, either: Served, http: aiohttp.ClientSession) -> None:
    status, _, headers = await post(either, http, **{row.name: row.example})
    assert (status, headers["x-ignored-params"]) == (200, row.name)
    for value in (None, *row.harmless):
        _, _, headers = await post(either, http, **{row.name: value})
        assert "x-ignored-params" not in headers


async def test_items_of_one_turn_become_one_message(either: Served, http: aiohttp.ClientSession) -> None:
    def call(name: str) -> dict[str, Any]:
        return {"type": "function_call", "call_id": name, "name": name, "arguments": "{}"}

    def text(role: str, said: str, kind: str = "input_text") -> dict[str, Any]:
        return {"role": role, "content": [{"type": kind, "text": said}]}

    items = [
        text("developer", "d"),
        text("user", "a"),
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {**text("assistant", "b", "output_text"), "type": "message"},
        call("c1"),
        call("c2"),
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        call("c3"),
        text("assistant", "e", "output_text"),
        text("user", "f"),
    ]
    status, body, _ = await post(either, http, input=items, instructions="i")

    assert status == 200, body
    seen = sent(either).conversation.messages
    assert [(m.role, m.content, [c.id for c in m.tool_calls]) for m in seen] == [
        (1, "i", []),
        (1, "d", []),
        (2, "a", []),
        (3, "b", ["c1", "c2"]),
        (4, "1", []),
        (4, "2", []),
        (3, "", ["c3"]),
        (3, "e", []),
        (2, "f", []),
    ]
    assert (seen[3].reasoning_content, seen[5].tool_call_id) == ("hm", "c2")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "call_id": "c", "arguments": ""}]}, "input[0].name"),
        ({"tools": [{"type": "code_interpreter"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
async def test_wrong_fields_are_named(
    fields: dict[str, Any], param: str, either: Served, http: aiohttp.ClientSession
) -> None:
    status, body, _ = await post(either, http, **fields)

    assert (status, body["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        ("required", "MODE_REQUIRED", []),
        ({"type": "function", "name": "f"}, "MODE_REQUIRED", ["f"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, "MODE_AUTO", ["f"]),
    ],
)
async def test_every_tool_choice_reaches_the_router(
    choice: Any, mode: str, names: list[str], either: Served, http: aiohttp.ClientSession
) -> None:
    _, body, _ = await post(either, http, tool_choice=choice)
    given = sent(either).tool_choice
    assert (chat_pb2.ToolChoice.Mode.Name(given.mode), list(given.names)) == (mode, names)
    assert body["tool_choice"] == choice


async def test_effort_reaches_the_router(either: Served, http: aiohttp.ClientSession) -> None:
    _, _, headers = await post(either, http, reasoning={"effort": "high", "summary": "auto"})
    assert headers["x-ignored-params"] == "reasoning.summary"
    assert sent(either).reasoning_effort == "high"


async def test_log_probabilities_are_included_where_asked_for(either: Served, http: aiohttp.ClientSession) -> None:
    asked = {"include": ["message.output_text.logprobs", "x"], "top_logprobs": 2}
    _, body, headers = await post(either, http, **asked)
    seen = await events(either, http, **asked)

    [text] = body["output"][0]["content"]
    assert "".join(entry["token"] for entry in text["logprobs"]) == text["text"]
    assert len(text["logprobs"][0]["top_logprobs"]) == 2
    assert headers["x-ignored-params"] == "include.x"
    assert seen[-1]["response"]["output"][0]["content"] == [text]
    deltas = [entry for event in seen if event["type"] == "response.output_text.delta" for entry in event["logprobs"]]
    assert deltas == text["logprobs"]


async def events(either: Served, http: aiohttp.ClientSession, **fields: Any) -> list[Any]:
    async with http.post(f"{either.url}/v1/responses", json={**ASK, "stream": True, **fields}) as reply:
        text = await reply.text()
    found = [one.partition("\n") for one in text.split("\n\n") if one]
    told = [json.loads(data.removeprefix("data: ")) for _, _, data in found]
    assert [f"event: {event['type']}" for event in told] == [name for name, _, _ in found]
    return told


async def test_every_item_of_a_stream_is_added_filled_and_done(either: Served, http: aiohttp.ClientSession) -> None:
    def script(_: Request) -> Script:
        return Script("He said", "so", (("f", '{"a": 1}'), ("g", "{}")))

    either.backend.script = script
    seen = await events(either, http)
    _, whole, _ = await post(either, http)

    assert [(e["type"].removeprefix("response."), e.get("output_index")) for e in seen] == [
        ("created", None),
        ("in_progress", None),
        ("output_item.added", 0),
        ("content_part.added", 0),
        ("reasoning_text.delta", 0),
        ("reasoning_text.done", 0),
        ("content_part.done", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("content_part.added", 1),
        ("output_text.delta", 1),
        ("output_text.delta", 1),
        ("output_text.done", 1),
        ("content_part.done", 1),
        ("output_item.done", 1),
        ("output_item.added", 2),
        ("function_call_arguments.delta", 2),
        ("function_call_arguments.delta", 2),
        ("function_call_arguments.done", 2),
        ("output_item.done", 2),
        ("output_item.added", 3),
        ("function_call_arguments.delta", 3),
        ("function_call_arguments.done", 3),
        ("output_item.done", 3),
        ("completed", None),
    ]
    # What streams and what comes whole are the same response.
    assert seen[-1]["response"] == whole


async def test_a_response_that_was_cut_off_is_incomplete(either: Served, http: aiohttp.ClientSession) -> None:
    _, whole, _ = await post(either, http, max_output_tokens=3)
    seen = await events(either, http, max_output_tokens=3)

    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert whole["output"][0]["status"] == "incomplete"
    assert (seen[-1]["type"], seen[-1]["response"]) == ("response.incomplete", whole)


def test_a_stream_that_fails_before_it_has_begun_is_one_error() -> None:
    """A comment that kept the connection alive may have gone before."""
    told = ResponseStream({}).event(QueueFull("full"), "r")

    assert told.count(b"event: ") == 1
    assert json.loads(told.partition(b"data: ")[2])["code"] == "queue_full"


@pytest.mark.parametrize(
    ("error", "code"), [(QueueFull("full"), "rate_limit_exceeded"), (InternalError("bad"), "server_error")]
)
async def test_a_stream_that_fails_says_so_in_its_own_events(
    error: ServiceError, code: str, either: Served, http: aiohttp.ClientSession
) -> None:
    either.backend.failure, either.backend.fail_at_step = error, 2
    seen = await events(either, http)

    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert (seen[-2]["type"], seen[-2]["code"]) == ("error", error.code)
    failed = seen[-1]["response"]
    assert (seen[-1]["type"], failed["status"], failed["error"]["code"]) == ("response.failed", "failed", code)
