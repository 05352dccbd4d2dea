"""The face of Anthropic's API: the official client, the table of fields, and what becomes of blocks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.http.anthropic.fields import TABLE
from qwenserve.router.http.transport.field_rows import Effect, Field
from qwenserve.runtime.errors import InternalError, QueueFull, ServiceError, Unavailable
from tests.router.http.anthropic_checks import CHECKS, check_whole, client_of, library
from tests.router.http.conftest import Served, serve
from tests.router.http.fake_backend import Request, Script
from tests.router.http.fake_target import target
from tests.router.http.target import Target

ASK: dict[str, Any] = {"model": "fake-model", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}


async def post(either: Served, http: aiohttp.ClientSession, **fields: Any) -> tuple[int, Any, Any]:
    async with http.post(f"{either.url}/v1/messages", json={**ASK, **fields}) as reply:
        return reply.status, await reply.json(), reply.headers


def sent(either: Served) -> chat_pb2.ChatCompletionRequest:
    request = either.backend.requests[-1]
    assert isinstance(request, chat_pb2.ChatCompletionRequest)
    return request


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_official_client(check: Callable[[Target], Awaitable[None]], either: Served) -> None:
    await check(target(either))


@pytest.mark.parametrize("apart", [False, True], ids=["router", "shim"])
async def test_a_key_may_be_sent_as_that_client_sends_it(apart: bool) -> None:
    async with serve(keys=("right",), apart=apart) as either:
        with pytest.raises(library().AuthenticationError) as wrong:
            await check_whole(target(either)._replace(api_key="wrong"))
        await check_whole(target(either)._replace(api_key="right"))
    assert wrong.value.body["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("row", [row for row in TABLE if row.effect is Effect.APPLIED], ids=lambda row: row.name)
async def test_an_applied_field_has_an_effect(row: Field, either: Served, http: aiohttp.ClientSession) -> None:
    await post(either, http)
    status, body, headers = await post(either, http, **{row.name: row.example})

    assert (status, headers.get("x-ignored-params")) == (200, None), body
    plain, changed = either.backend.requests
    plain.request_id = changed.request_id = ""
    given = {"model", "messages"} & {row.name}
    assert (plain != changed) is not (bool(given) or row.target.startswith("shim."))


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


async def test_blocks_become_messages_of_their_roles(either: Served, http: aiohttp.ClientSession) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "b"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": "é"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "42"}]},
                {"type": "text", "text": "c"},
                {"type": "text", "text": "d"},
            ],
        },
    ]
    system = [{"type": "text", "text": "s1"}, {"type": "text", "text": "s2"}]
    status, body, headers = await post(either, http, messages=messages, system=system)

    assert status == 200, body
    assert headers["x-ignored-params"] == "messages[0].content[0].cache_control"
    seen = sent(either).conversation.messages
    assert [(m.role, m.content) for m in seen] == [(1, "s1\ns2"), (2, "a"), (3, "b"), (4, "42"), (2, "c\nd")]
    assert (seen[2].reasoning_content, seen[3].tool_call_id) == ("hm", "t1")
    [call] = seen[2].tool_calls
    assert (call.id, call.name, call.arguments_json) == ("t1", "f", '{"x": "é"}')


async def test_an_answer_begun_by_the_caller_is_continued(either: Served, http: aiohttp.ClientSession) -> None:
    begun = [*ASK["messages"], {"role": "assistant", "content": "Once"}]
    assert (await post(either, http, messages=begun))[0] == 200
    assert sent(either).conversation.continue_final_message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0].id"),
        ({"system": 5}, "system"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "thinking.budget_tokens"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
async def test_wrong_fields_are_named(
    fields: dict[str, Any], param: str, either: Served, http: aiohttp.ClientSession
) -> None:
    status, body, _ = await post(either, http, **fields)

    assert (status, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error")
    assert body["error"]["param"] == param


@pytest.mark.parametrize(
    ("choice", "mode", "names", "parallel"),
    [
        ({"type": "auto"}, "MODE_AUTO", [], None),
        ({"type": "none"}, "MODE_NONE", [], None),
        ({"type": "any", "disable_parallel_tool_use": True}, "MODE_REQUIRED", [], False),
        ({"type": "tool", "name": "f"}, "MODE_REQUIRED", ["f"], None),
    ],
)
async def test_every_tool_choice_reaches_the_router(
    choice: Any, mode: str, names: list[str], parallel: bool | None, either: Served, http: aiohttp.ClientSession
) -> None:
    await post(either, http, tool_choice=choice)
    given = sent(either).tool_choice
    assert (chat_pb2.ToolChoice.Mode.Name(given.mode), list(given.names)) == (mode, names)
    assert (given.parallel if given.HasField("parallel") else None) is parallel


async def test_the_model_thinks_only_where_it_is_asked_to(either: Served, http: aiohttp.ClientSession) -> None:
    for thinking, wanted in ((None, False), ({"type": "disabled"}, False), ({"type": "adaptive"}, True)):
        await post(either, http, thinking=thinking)
        assert sent(either).conversation.enable_thinking is wanted
    _, _, headers = await post(either, http, thinking={"type": "enabled", "budget_tokens": 50})
    assert "x-ignored-params" not in headers
    assert (sent(either).conversation.enable_thinking, sent(either).thinking_budget) == (True, 50)


async def events(either: Served, http: aiohttp.ClientSession) -> list[tuple[str, Any]]:
    async with http.post(f"{either.url}/v1/messages", json={**ASK, "stream": True}) as reply:
        text = await reply.text()
    found = [one.partition("\n") for one in text.split("\n\n") if one]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, _, data in found]


async def test_every_block_of_a_stream_is_opened_filled_and_closed(either: Served, http: aiohttp.ClientSession) -> None:
    def script(_: Request) -> Script:
        return Script("He said", "so so", (("f", '{"a": 1}'), ("g", "{}")))

    either.backend.script = script
    seen = await events(either, http)

    assert all(name == data["type"] for name, data in seen)
    shown = [(name.removeprefix("content_block_"), data.get("index")) for name, data in seen]
    assert shown == [
        ("message_start", None),
        *[("start", 0), ("delta", 0), ("delta", 0), ("delta", 0), ("stop", 0)],
        *[("start", 1), ("delta", 1), ("delta", 1), ("stop", 1)],
        *[("start", 2), ("delta", 2), ("delta", 2), ("stop", 2)],
        *[("start", 3), ("delta", 3), ("stop", 3)],
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert [data["content_block"]["type"] for name, data in seen if name == "content_block_start"] == [
        "thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    assert seen[0][1]["message"]["usage"]["input_tokens"] == 2
    assert seen[-2][1]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


async def test_a_stop_sequence_is_told(either: Served, http: aiohttp.ClientSession) -> None:
    either.backend.script = lambda _: Script("x", stop_string="END")
    _, body, _ = await post(either, http, stop_sequences=["END"])
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "END")


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (QueueFull("full", retry_after_s=1), "rate_limit_error", 429),
        (Unavailable("no worker"), "overloaded_error", 503),
        (InternalError("bad"), "api_error", 500),
    ],
)
async def test_errors_before_and_in_a_stream_have_the_documented_form(
    error: ServiceError, kind: str, status: int, either: Served, http: aiohttp.ClientSession
) -> None:
    either.backend.failure, either.backend.fail_at_step = error, 2
    name, data = (await events(either, http))[-1]
    either.backend.refusal = error
    got, body, _ = await post(either, http)

    assert (name, data["error"]["type"], got, body["error"]["type"]) == ("error", kind, status, kind)


@pytest.mark.parametrize(("verb", "path"), [("GET", "/v1/messages"), ("POST", "/v1/messages/batches")])
async def test_paths_near_this_face_answer_in_its_form(
    verb: str, path: str, either: Served, http: aiohttp.ClientSession
) -> None:
    async with http.request(verb, either.url + path) as reply:
        assert (await reply.json())["type"] == "error"


async def test_a_stream_that_fails_raises_in_the_client(either: Served) -> None:
    either.backend.failure, either.backend.fail_at_step = QueueFull("full"), 2
    async with client_of(target(either)) as client:
        with pytest.raises(library().APIStatusError):
            async with client.messages.stream(**ASK) as stream:
                await stream.get_final_message()
