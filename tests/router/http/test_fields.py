"""The field table, walked: every row does over HTTP what it says."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.http.openai.fields import TABLE
from qwenserve.router.http.transport.field_rows import Effect, Face, Field
from qwenserve.type.v1 import guide_pb2
from tests.router.http.conftest import Served, serve
from tests.router.http.fake_backend import Request

# What arrives where it is not the example itself.
ARRIVES: dict[str, Any] = {
    "logit_bias": {11: -5.0},
    "messages": "hi",
    "tools": [{"type": "function", "function": {"name": "look"}}],
    "tool_choice": chat_pb2.ToolChoice(mode=chat_pb2.ToolChoice.MODE_AUTO),
    "parallel_tool_calls": chat_pb2.ToolChoice(parallel=False),
    "chat_template_kwargs": {"enable_thinking": False},
    "prompt": "once",
    "cache": chat_pb2.CACHE_MODE_READ_WRITE,
    "reasoning": False,
    "thinking": False,
    "response_format": guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_JSON_OBJECT),
    "structured_outputs": guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_REGEX, text="a+"),
    "guided_json": guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_JSON_SCHEMA, text='{"type":"object"}'),
    "json_schema": guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_JSON_SCHEMA, text='{"type": "object"}'),
    "guided_regex": guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_REGEX, text="a+"),
    "regex": guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_REGEX, text="a+"),
    "guided_choice": guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_CHOICE, text='["a"]'),
    "guided_grammar": guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_GRAMMAR, text='start: "a"'),
    "grammar": guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_GRAMMAR, text='start: "a"'),
    "structural_tag": guide_pb2.Guide(
        kind=guide_pb2.GUIDE_KIND_REGIONS,
        text='{"regions":[{"begin":"<a>","kind":1,"text":"{\\"type\\":\\"object\\"}","end":"</a>","trigger":"<a>"}],'
        '"free":true,"least":0,"most":0}',
    ),
    "ebnf": guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_GRAMMAR, text='root ::= "a"'),
}
COMPANIONS: dict[str, dict[str, Any]] = {"top_logprobs": {"logprobs": True}, "stream_options": {"stream": True}}
CHAT_LOGPROBS = 0

ROWS = [(face, row) for row in TABLE for face in (Face.CHAT, Face.COMPLETION) if face in row.faces]
IDS = [f"{face.name}-{row.name}" for face, row in ROWS]


def rows(effect: Effect) -> pytest.MarkDecorator:
    chosen = [(pair, name) for pair, name in zip(ROWS, IDS, strict=True) if pair[1].effect is effect]
    return pytest.mark.parametrize(("face", "row"), [pair for pair, _ in chosen], ids=[name for _, name in chosen])


def body(face: Face, **fields: Any) -> dict[str, Any]:
    base: dict[str, Any] = (
        {"messages": [{"role": "user", "content": "hi"}]} if face is Face.CHAT else {"prompt": "once"}
    )
    return {**base, **fields}


def url(served: Served, face: Face) -> str:
    return served.url + ("/v1/chat/completions" if face is Face.CHAT else "/v1/completions")


def arrived(request: Request, field: Field) -> Any:
    part, attribute = field.target.split(".")
    holder: Any = request if part == "request" else getattr(request, part)
    value = getattr(holder, attribute)
    if field.name == "messages":
        return value[0].content
    if field.name == "tools":
        return [json.loads(tool.definition_json) for tool in value]
    if field.name == "chat_template_kwargs":
        return json.loads(value)
    if field.name == "prompt":
        return value[0].text
    if field.target == "request.guide":
        return value
    if field.name in ("logit_bias", "metadata"):
        return dict(value)
    return list(value) if isinstance(field.example, list) else value


@rows(Effect.APPLIED)
async def test_an_applied_field_reaches_the_router(
    face: Face, row: Field, served: Served, http: aiohttp.ClientSession
) -> None:
    fields = {row.name: row.example, **COMPANIONS.get(row.name, {})}
    async with http.post(url(served, face), json=body(face, **fields)) as reply:
        assert reply.status == 200, await reply.text()
        ignored = reply.headers.get("x-ignored-params", "")
        request_id = reply.headers["x-request-id"]

    if row.target == "shim.request_id":
        assert row.example == request_id == served.backend.calls[0].request_id
    elif row.target.startswith("shim."):
        assert ignored == ""  # what it does to the answer is shown with the answers
    else:
        wanted = ARRIVES.get(row.name, row.example)
        if row.name == "logprobs" and face is Face.CHAT:
            wanted = CHAT_LOGPROBS
        assert wanted == arrived(served.backend.requests[0], row)
        assert ignored == ""


@rows(Effect.REFUSED)
async def test_a_refused_field_is_named_with_its_reason(
    face: Face, row: Field, served: Served, http: aiohttp.ClientSession
) -> None:
    async with http.post(url(served, face), json=body(face, **{row.name: row.example})) as reply:
        error = (await reply.json())["error"]

    assert (400, row.name, "unsupported") == (reply.status, error["param"], error["code"])
    assert row.note in error["message"]
    assert served.backend.requests == []


@rows(Effect.IGNORED)
async def test_an_ignored_field_is_listed(face: Face, row: Field, served: Served, http: aiohttp.ClientSession) -> None:
    async with http.post(url(served, face), json=body(face, **{row.name: row.example})) as reply:
        assert (200, row.name) == (reply.status, reply.headers.get("x-ignored-params"))
    async with http.post(
        url(served, face), json=body(face, **{row.name: row.example}), headers={"x-strict": "true"}
    ) as reply:
        assert (400, row.name) == (reply.status, (await reply.json())["error"]["param"])


@pytest.mark.parametrize(("face", "row"), ROWS, ids=IDS)
async def test_null_and_harmless_values_count_as_unset(
    face: Face, row: Field, served: Served, http: aiohttp.ClientSession
) -> None:
    values = ([] if row.name in ("messages", "prompt") else [None]) + list(row.harmless)
    for value in values:
        async with http.post(
            url(served, face), json=body(face, **{row.name: value}), headers={"x-strict": "true"}
        ) as reply:
            assert reply.status == 200, await reply.text()
            assert "x-ignored-params" not in reply.headers


async def test_names_in_another_case_are_applied(served: Served, http: aiohttp.ClientSession) -> None:
    given = {"Messages": [{"role": "user", "content": "hi"}], "Max_tokens": 3, "Temperature": 0.5}
    async with http.post(url(served, Face.CHAT), json=given) as reply:
        assert reply.status == 200
        assert "x-ignored-params" not in reply.headers

    sampling = served.backend.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature) == (3, 0.5)


async def test_the_right_name_wins_over_another_case(served: Served, http: aiohttp.ClientSession) -> None:
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, Max_tokens=3, max_tokens=5)) as reply:
        assert reply.headers["x-ignored-params"] == "Max_tokens"

    assert served.backend.requests[0].sampling.max_tokens == 5


async def test_another_case_is_checked_too(served: Served, http: aiohttp.ClientSession) -> None:
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, Temperature="hot")) as reply:
        error = (await reply.json())["error"]

    assert (reply.status, error["param"]) == (400, "temperature")


async def test_unknown_names_are_listed_safely(served: Served, http: aiohttp.ClientSession) -> None:
    unknown = {"x\r\nSet-Cookie: a": 1, "naïve": 2}
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, **unknown)) as reply:
        assert reply.headers["x-ignored-params"] == "x%0D%0ASet-Cookie%3A%20a,na%C3%AFve"
        assert "Set-Cookie" not in reply.headers


async def test_a_strict_deployment_refuses_unknown_names(http: aiohttp.ClientSession) -> None:
    async with serve(strict=True) as served:
        async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, foo=1, bar=2)) as reply:
            error = (await reply.json())["error"]
            assert (reply.status, error["param"]) == (400, "foo")
            assert "foo, bar" in error["message"]
        async with http.post(
            url(served, Face.CHAT), json=body(Face.CHAT, foo=1), headers={"x-strict": "false"}
        ) as reply:
            assert reply.status == 200


async def test_fields_that_the_router_ignored_are_listed(served: Served, http: aiohttp.ClientSession) -> None:
    served.backend.ignored = ["min_p"]
    for stream in (False, True):
        async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, foo=1, stream=stream)) as reply:
            assert reply.headers["x-ignored-params"] == "foo,min_p"


F = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        ("none", "MODE_NONE", []),
        ("required", "MODE_REQUIRED", []),
        (F, "MODE_REQUIRED", ["f"]),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [F]}}, "MODE_AUTO", ["f"]),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [F, F]}},
            "MODE_REQUIRED",
            ["f", "f"],
        ),
    ],
)
async def test_every_form_of_tool_choice_reaches_the_router(
    choice: Any, mode: str, names: list[str], served: Served, http: aiohttp.ClientSession
) -> None:
    async with http.post(
        url(served, Face.CHAT), json=body(Face.CHAT, parallel_tool_calls=False, tool_choice=choice)
    ) as reply:
        assert reply.status == 200, await reply.text()

    sent = served.backend.requests[0].tool_choice  # type: ignore[union-attr]
    assert (chat_pb2.ToolChoice.Mode.Name(sent.mode), list(sent.names), sent.parallel) == (mode, names, False)


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("any", "tool_choice"),
        (5, "tool_choice"),
        ({"type": "function"}, "tool_choice.function.name"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [F, {}]}},
            "tool_choice.allowed_tools.tools[1].function.name",
        ),
    ],
)
async def test_a_tool_choice_that_is_none_is_refused_by_its_path(
    choice: Any, param: str, served: Served, http: aiohttp.ClientSession
) -> None:
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, tool_choice=choice)) as reply:
        assert (reply.status, (await reply.json())["error"]["param"]) == (400, param)


async def test_the_newer_token_limit_wins(served: Served, http: aiohttp.ClientSession) -> None:
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, max_tokens=9, max_completion_tokens=4)) as reply:
        assert reply.headers["x-ignored-params"] == "max_tokens"

    assert served.backend.requests[0].sampling.max_tokens == 4


async def test_messages_of_many_clients_are_understood(served: Served, http: aiohttp.ClientSession) -> None:
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "id": "a"},
        {"role": "assistant", "content": None, "reasoning": "hm", "refusal": None, "annotations": [], "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": {"b": "é"}}},
            {"type": "function", "function": {"name": "h"}},
        ]},
        {"role": "tool", "content": "42", "name": "f", "tool_call_id": "c1"},
        {"role": "tool", "content": "43"},
        {"role": "user", "content": "so?", "id": "b"},
    ]  # fmt: skip
    async with http.post(url(served, Face.CHAT), json={"messages": messages}) as reply:
        assert reply.status == 200, await reply.text()
        assert reply.headers["x-ignored-params"] == "messages[1].id"

    sent = served.backend.requests[0].conversation.messages  # type: ignore[union-attr]
    assert [message.role for message in sent] == [1, 2, 3, 4, 4, 2]
    assert sent[1].content == "one\ntwo"
    assert (sent[2].reasoning_content, sent[2].HasField("content")) == ("hm", False)
    calls = [(call.id, call.name, call.arguments_json) for call in sent[2].tool_calls]
    assert calls == [("c1", "f", '{"a": 1}'), ("c2", "g", '{"b": "é"}'), ("", "h", "{}")]
    assert (sent[3].name, sent[3].tool_call_id, sent[4].tool_call_id) == ("f", "c1", "")


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        ("a", [b"a"]),
        (["a", "b"], [b"a", b"b"]),
        ([97, 98], [b"ab"]),
        ([[97], [98, 99]], [b"a", b"bc"]),
        (["a", [98]], [b"a", b"b"]),
    ],
)
async def test_prompts_are_texts_or_token_ids(
    prompt: Any, sent: list[bytes], served: Served, http: aiohttp.ClientSession
) -> None:
    async with http.post(url(served, Face.COMPLETION), json={"prompt": prompt, "n": 2}) as reply:
        assert [0, 1] * len(sent) == [choice["index"] % 2 for choice in (await reply.json())["choices"]]

    prompts = served.backend.requests[0].prompts  # type: ignore[union-attr]
    assert sent == [one.text.encode() or bytes(one.token_ids.ids) for one in prompts]


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({"reasoning": {"enabled": False}}, False),
        ({"reasoning": {"enabled": True}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled"}}, True),
        ({"think": False}, False),
    ],
)
async def test_every_spelling_of_thinking_on_and_off_is_applied(
    fields: dict[str, Any], thinks: bool, served: Served, http: aiohttp.ClientSession
) -> None:
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, **fields)) as reply:
        assert reply.status == 200
        assert "x-ignored-params" not in reply.headers

    request = served.backend.requests[0]
    assert isinstance(request, chat_pb2.ChatCompletionRequest)
    conversation = request.conversation
    assert (conversation.HasField("enable_thinking"), conversation.enable_thinking) == (True, thinks)


@pytest.mark.parametrize("fields", [{"reasoning": {"max_tokens": 7}}, {"thinking": {"budget_tokens": 7}}])
async def test_every_spelling_of_a_thinking_budget_is_applied(
    fields: dict[str, Any], served: Served, http: aiohttp.ClientSession
) -> None:
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, **fields)) as reply:
        assert reply.status == 200
        assert "x-ignored-params" not in reply.headers
    ((name, members),) = fields.items()
    wrong = {name: dict.fromkeys(members, "x")}
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, **wrong)) as reply:
        assert (await reply.json())["error"]["param"] == f"{name}.{next(iter(members))}"

    request = served.backend.requests[0]
    assert isinstance(request, chat_pb2.ChatCompletionRequest)
    assert request.thinking_budget == 7


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": "yes"}}, "stream_options"),
        ({"thinking": {"type": "maybe"}}, "thinking"),
        ({"grammar": 3}, "grammar"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_json": 3}, "guided_json"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.format"),
        ({"structural_tag": "{}"}, "structural_tag.format"),
    ],
)
async def test_the_field_at_fault_is_named(
    fields: dict[str, Any], param: str, served: Served, http: aiohttp.ClientSession
) -> None:
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, **fields)) as reply:
        assert (reply.status, (await reply.json())["error"]["param"]) == (400, param)


async def test_whole_numbers_may_be_written_with_a_point(served: Served, http: aiohttp.ClientSession) -> None:
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, max_tokens=4.0, seed=7.0, n=2.0)) as reply:
        assert reply.status == 200
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, max_tokens=4.5)) as reply:
        assert (reply.status, (await reply.json())["error"]["param"]) == (400, "max_tokens")
    async with http.post(url(served, Face.CHAT), json=body(Face.CHAT, max_tokens="4")) as reply:
        assert reply.status == 400

    request = served.backend.requests[0]
    assert (request.sampling.max_tokens, request.sampling.seed, request.n) == (4, 7, 2)
