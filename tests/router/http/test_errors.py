"""Errors: their status, their shape, and the place that they name."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from qwenserve.runtime import errors
from tests.router.http.conftest import Served, serve

ASK = {"messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"


def with_message(**fields: Any) -> dict[str, Any]:
    return {"messages": [ASK["messages"][0], {"role": "user", "content": "hi", **fields}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        (with_message(role="usr"), "messages[1].role"),
        (with_message(role=None), "messages[1].role"),
        (with_message(role="function"), "messages[1].role"),
        (with_message(content=5), "messages[1].content"),
        (with_message(content=[{"type": "text"}]), "messages[1].content[0]"),
        (with_message(content=[{"type": "text", "text": "a"}, {"type": "image_url"}]), "messages[1].content[1]"),
        (with_message(name=5), "messages[1].name"),
        (with_message(tool_calls={}, function_call={"name": "f"}), "messages[1].function_call"),
        (with_message(tool_calls=["f"]), "messages[1].tool_calls[0].function.name"),
        (
            with_message(tool_calls=[{"function": {"name": "f", "arguments": 5}}]),
            "messages[1].tool_calls[0].function.arguments",
        ),
        ({**ASK, "temperature": "0.5"}, "temperature"),
        ({**ASK, "temperature": True}, "temperature"),
        ({**ASK, "max_tokens": 1.5}, "max_tokens"),
        ({**ASK, "max_tokens": 2**31}, "max_tokens"),
        ({**ASK, "n": 0}, "n"),
        ({**ASK, "stop": 5}, "stop"),
        ({**ASK, "stop": ["a", 5]}, "stop"),
        ({**ASK, "logit_bias": {"a": 1}}, "logit_bias"),
        ({**ASK, "logit_bias": {"-1": 1}}, "logit_bias"),
        ({**ASK, "logit_bias": {"1": "x"}}, "logit_bias.1"),
        ({**ASK, "top_logprobs": 2}, "top_logprobs"),
        ({**ASK, "stop_token_ids": [1, "x"]}, "stop_token_ids[1]"),
        ({**ASK, "tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({**ASK, "tools": [{"type": "browser"}]}, "tools[0].type"),
        ({**ASK, "tool_choice": "any"}, "tool_choice"),
        ({**ASK, "stream_options": {"include_usage": 1}}, "stream_options"),
        ({**ASK, "metadata": {"a": 1}}, "metadata.a"),
        ({**ASK, "response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    ],
)
async def test_a_wrong_field_is_named(
    body: dict[str, Any], param: str, served: Served, http: aiohttp.ClientSession
) -> None:
    async with http.post(served.url + CHAT, json=body) as reply:
        error = (await reply.json())["error"]

    assert (reply.status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert param.partition("[")[0].partition(".")[0] in error["message"]
    assert served.backend.requests == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "EOF while parsing a value at line 1 column 0"),
        (b'{"messages": [}', "expected value at line 1 column 15"),
        (b'{\n"messages" 5}', "expected `:` at line 2 column 12"),
        (b'{"user": "\xff"}', "invalid unicode code point at line 1 column 11"),
        (b'{"a": ' + b"[" * 100_000, "recursion limit exceeded"),
        (b"[]", "must be a JSON object"),
        (b'"hi"', "must be a JSON object"),
    ],
)
async def test_broken_json_is_located(body: bytes, message: str, served: Served, http: aiohttp.ClientSession) -> None:
    async with http.post(served.url + CHAT, data=body) as reply:
        error = (await reply.json())["error"]

    assert (reply.status, error["code"]) == (400, "invalid_request")
    assert message in error["message"]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "nonsense"])
async def test_the_content_type_does_not_matter(kind: str, served: Served, http: aiohttp.ClientSession) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(ASK).encode()  # nor does a byte order mark
    async with http.post(served.url + CHAT, data=body, headers={"Content-Type": kind}) as reply:
        assert reply.status == 200


@pytest.mark.parametrize("compressed", [b"not gzip at all", b""])
async def test_a_broken_encoding_is_the_clients_fault(
    compressed: bytes, served: Served, http: aiohttp.ClientSession
) -> None:
    async with http.post(served.url + CHAT, data=compressed, headers={"Content-Encoding": "gzip"}) as reply:
        assert reply.status == 400


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (errors.InvalidRequest("m"), 400, "invalid_request_error", "invalid_request"),
        (errors.ContextLengthExceeded("m"), 400, "invalid_request_error", "context_length_exceeded"),
        (errors.ModelNotFound("m"), 404, "invalid_request_error", "model_not_found"),
        (errors.QueueFull("m", retry_after_s=3), 429, "rate_limit_error", "queue_full"),
        (errors.Unavailable("m", retry_after_s=1), 503, "server_error", "no_worker"),
        (errors.Draining("m"), 503, "server_error", "draining"),
        (errors.DeadlineExceeded("m"), 504, "timeout_error", "deadline_exceeded"),
        (errors.InternalError("m"), 500, "server_error", "internal"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_have_openais_shape(
    error: errors.ServiceError,
    status: int,
    kind: str,
    code: str,
    stream: bool,
    served: Served,
    http: aiohttp.ClientSession,
) -> None:
    served.backend.refusal = error
    async with http.post(served.url + CHAT, json={**ASK, "stream": stream}) as reply:
        body = await reply.json()

    assert reply.status == status
    assert body == {"error": {"message": "m", "type": kind, "param": None, "code": code}}
    wait = error.retry_after_s
    assert reply.headers.get("Retry-After") == (None if wait is None else str(wait))
    counted = served.metrics.registry.get_sample_value
    assert counted("qwenserve_http_requests_total", {"kind": "chat", "status": str(status), "reason": error.reason})


async def test_unknown_paths_and_verbs(served: Served, http: aiohttp.ClientSession) -> None:
    async with http.get(served.url + "/v1/nothing") as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (404, "not_found")
    async with http.get(served.url + CHAT) as reply:
        assert (reply.status, reply.headers["Allow"]) == (405, "POST, OPTIONS")
        assert (await reply.json())["error"]["code"] == "method_not_allowed"
    async with http.options(served.url + CHAT) as reply:
        assert (reply.status, reply.headers["Allow"]) == (204, "POST, OPTIONS")
    async with http.options(served.url + CHAT, headers={"Origin": "http://elsewhere"}) as reply:
        assert reply.status == 403
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]
    async with http.head(served.url + "/v1/models") as reply:
        assert (reply.status, await reply.read()) == (200, b"")
    async with http.delete(served.url + "/v1/models/a/b") as reply:
        assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_keys_guard_all_but_health_and_metrics(http: aiohttp.ClientSession) -> None:
    async with serve(keys=("right",)) as served:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
            for path in ("/v1/models", "/docs", "/openapi.json"):
                async with http.get(served.url + path, headers=headers) as reply:
                    error = (await reply.json())["error"]
                    assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
                    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        async with http.post(served.url + CHAT, data=b"broken") as reply:
            assert reply.status == 401  # nothing is read of a request without a key
        for path in ("/healthz", "/readyz", "/metrics"):
            async with http.get(served.url + path) as reply:
                assert reply.status == 200
        async with http.post(served.url + CHAT, json=ASK, headers={"Authorization": "Bearer right"}) as reply:
            assert reply.status == 200
        assert served.backend.calls[0].key_id


async def test_a_key_of_any_bytes_is_merely_wrong(http: aiohttp.ClientSession) -> None:
    headers = {"Authorization": "Bearer \udcff\udcfe"}
    async with serve(keys=("right",)) as served, http.get(served.url + "/v1/models", headers=headers) as reply:
        assert reply.status == 401


async def test_ids_and_deadlines_travel(served: Served, http: aiohttp.ClientSession) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"x-request-id": "r-1", "traceparent": traceparent, "x-request-timeout": "30"}
    async with http.post(served.url + CHAT, json={**ASK, "request_id": "r-2"}, headers=headers) as reply:
        assert (reply.headers["x-request-id"], reply.headers["traceparent"]) == ("r-1", traceparent)

    call = served.backend.calls[0]
    assert (call.request_id, call.traceparent) == ("r-1", traceparent)
    remaining = call.remaining_s()
    assert remaining is not None
    assert 20 < remaining <= 30


@pytest.mark.parametrize("given", ["", "x" * 200, "a b", "a\tb"])
async def test_an_unusable_id_is_replaced(given: str, served: Served, http: aiohttp.ClientSession) -> None:
    headers = {"x-request-id": given, "traceparent": "nonsense"}
    async with http.get(served.url + "/nothing", headers=headers) as reply:
        assert len(reply.headers["x-request-id"]) == 24
        assert "traceparent" not in reply.headers


@pytest.mark.parametrize(
    ("header", "value"),
    [("x-request-timeout", "soon"), ("x-request-timeout", "-1"), ("x-request-timeout", "nan"), ("x-strict", "maybe")],
)
async def test_wrong_headers_are_named(header: str, value: str, served: Served, http: aiohttp.ClientSession) -> None:
    async with http.post(served.url + CHAT, json=ASK, headers={header: value}) as reply:
        assert (reply.status, (await reply.json())["error"]["param"]) == (400, header)


async def test_one_log_line_without_text(
    served: Served, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="qwenserve")
    secret = {"messages": [{"role": "user", "content": "my secret"}], "model": 5}
    async with http.post(served.url + CHAT, json=secret, headers={"x-request-id": "r-9"}) as reply:
        await reply.read()
    async with http.get(served.url + "/healthz") as reply:  # asked every few seconds: not worth a line
        await reply.read()

    (record,) = caplog.records
    fields = record.__dict__["fields"]
    assert record.message == "request"
    shown = {name: fields[name] for name in ("request_id", "kind", "path", "status", "error")}
    assert shown == {"request_id": "r-9", "kind": "chat", "path": CHAT, "status": 400, "error": "INVALID_REQUEST"}
    assert "secret" not in str(fields)


async def test_what_the_router_took_is_logged_and_counted_by_it(
    served: Served, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="qwenserve")
    async with http.post(served.url + CHAT, json={**ASK, "stream": True}) as reply:
        await reply.read()
    served.backend.refusal = errors.QueueFull("full")
    async with http.post(served.url + CHAT, json=ASK) as reply:
        assert reply.status == 429

    told = [(record.levelname, record.__dict__["fields"]["status"]) for record in caplog.records]
    assert told == [("DEBUG", 200), ("DEBUG", 429)]
    fields = caplog.records[0].__dict__["fields"]
    assert (fields["stream"], fields["model"]) == (True, "fake-model")
    assert fields["completion_tokens"] == len("You said: hi")
    counted = served.metrics.registry.get_sample_value
    assert counted("qwenserve_errors_total", {"reason": "QUEUE_FULL"}) is None
    assert counted("qwenserve_http_requests_total", {"kind": "chat", "status": "429", "reason": "QUEUE_FULL"}) == 1


async def test_the_key_may_stand_in_a_header_of_its_own(http: aiohttp.ClientSession) -> None:
    async with serve(keys=("right",)) as served:
        for key, status in (("right", 200), ("wrong", 401)):
            async with http.post(served.url + CHAT, json=ASK, headers={"X-Api-Key": key}) as reply:
                assert reply.status == status
        both = {"X-Api-Key": "right", "Authorization": "Bearer wrong"}
        async with http.post(served.url + CHAT, json=ASK, headers=both) as reply:
            assert reply.status == 401


async def test_without_a_key_nobody_learns_which_paths_there_are(http: aiohttp.ClientSession) -> None:
    async with serve(keys=("right",)) as served:
        for path in ("/nothing", "/v1/nothing", "/v1/chat"):
            async with http.get(served.url + path) as reply:
                assert reply.status == 401
            async with http.get(served.url + path, headers={"Authorization": "Bearer right"}) as reply:
                assert reply.status == 404
