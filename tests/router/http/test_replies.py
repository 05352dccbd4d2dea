"""Replies byte by byte: the lines of a head, and how a reply's end is told."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from typing import Any, NamedTuple

import pytest

from tests.router.http.conftest import Served, serve
from tests.router.http.fake_backend import FakeBackend, Script

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "hi"}]}


class Raw(NamedTuple):
    """A reply as it came over the wire."""

    status: str
    fields: dict[str, str]
    body: bytes


def raw(data: bytes) -> Raw:
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    fields = {name.lower(): value for name, value in pairs}
    assert len(fields) == len(pairs), "a header came twice"
    return Raw(status, fields, body)


def request(verb: str, path: str, *lines: str, version: str = "1.1", body: bytes = b"") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{verb} {path} HTTP/{version}", "Host: x", *length, *lines, "", ""]).encode() + body


async def until_closed(served: Served, data: bytes) -> bytes:
    """Sends bytes and returns all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 15)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_the_head_of_a_whole_reply(served: Served) -> None:
    before = int(time.time())
    reply = raw(await until_closed(served, request("GET", "/healthz", "Connection: close", "x-request-id: r-1")))

    assert reply.status == "HTTP/1.1 200 OK"
    date = email.utils.parsedate_to_datetime(reply.fields.pop("date")).timestamp()
    assert before <= date <= time.time()
    assert reply.fields == {
        "content-type": "application/json",
        "content-length": str(len(reply.body)),
        "connection": "close",
        "server": "qwenserve",
        "x-request-id": "r-1",
    }
    assert json.loads(reply.body) == {"status": "ok"}


async def test_a_head_without_its_body(served: Served) -> None:
    whole = raw(await until_closed(served, request("GET", "/v1/models", "Connection: close")))
    head = raw(await until_closed(served, request("HEAD", "/v1/models", "Connection: close")))

    assert (head.status, head.fields["content-length"], head.body) == (whole.status, str(len(whole.body)), b"")


async def test_no_content_has_no_length(served: Served) -> None:
    reply = raw(await until_closed(served, request("OPTIONS", CHAT, "Connection: close")))

    assert (reply.status, reply.fields["allow"], reply.body) == ("HTTP/1.1 204 No Content", "POST, OPTIONS", b"")
    assert not {"content-length", "transfer-encoding"} & reply.fields.keys()


@pytest.mark.parametrize(
    ("version", "lines", "connection", "stays_open"),
    [
        ("1.1", (), None, True),
        ("1.1", ("Connection: close",), "close", False),
        ("1.0", (), None, False),
        ("1.0", ("Connection: keep-alive",), "keep-alive", True),
    ],
)
async def test_a_connection_stays_open_as_its_client_wants(
    version: str, lines: tuple[str, ...], connection: str | None, stays_open: bool, served: Served
) -> None:
    data = request("GET", "/healthz", *lines, version=version)
    if stays_open:
        data += request("GET", "/healthz", "Connection: close")
    replies = (await until_closed(served, data)).split(b"HTTP/1.")[1:]

    assert len(replies) == (2 if stays_open else 1)
    first = raw(b"HTTP/1." + replies[0])
    assert first.status == f"HTTP/{version} 200 OK"
    assert first.fields.get("connection") == connection


async def test_requests_sent_together_are_answered_in_order(served: Served) -> None:
    asked = [{"messages": [{"role": "user", "content": str(number)}]} for number in range(50)]
    data = b"".join(request("POST", CHAT, body=json.dumps(body).encode()) for body in asked)
    answered = await until_closed(served, data + request("GET", "/healthz", "Connection: close"))

    said = [piece.partition(b'"')[0] for piece in answered.split(b'"content":"')[1:]]
    assert said == [b"You said: %d" % number for number in range(50)]


@pytest.mark.parametrize("path", ["/v1/chat%2Fcompletions", "/v1/chat/completions?x=1"])
async def test_a_path_may_be_written_in_other_ways(path: str, served: Served) -> None:
    data = request("POST", path, "Connection: close", body=json.dumps(ASK).encode())

    assert raw(await until_closed(served, data)).status == "HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [("OPTIONS", "*", 404), ("GET", "/v1/models/{name}", 404), ("PATCH", "/healthz", 405)],
)
async def test_odd_targets_have_replies_of_ours(verb: str, path: str, status: int, served: Served) -> None:
    reply = raw(await until_closed(served, request(verb, path, "Connection: close")))

    assert reply.status.split()[1] == str(status)
    assert json.loads(reply.body)["error"]["type"] == "invalid_request_error"


async def test_a_client_that_waits_is_told_to_go_on(served: Served) -> None:
    body = json.dumps(ASK).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(request("POST", CHAT, "Expect: 100-continue", f"Content-Length: {len(body)}"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_waits_with_too_much_is_refused_at_once() -> None:
    async with serve(max_body_bytes=1024) as served:
        data = request("POST", CHAT, "Expect: 100-continue", "Content-Length: 1025", "Connection: close")
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        try:
            writer.write(data)
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("split", [1, 7, 10_000])
async def test_a_body_in_chunks_is_read_whole(split: int, served: Served) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "é" * 1_500}]}).encode()
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece)
        for piece in (body[begin : begin + split] for begin in range(0, len(body), split))
    )
    head = request("POST", CHAT, "Connection: close", "Transfer-Encoding: chunked")

    assert raw(await until_closed(served, head + chunks + b"0\r\n\r\n")).status == "HTTP/1.1 200 OK"
    assert served.backend.requests[0].conversation.messages[0].content == "é" * 1_500  # type: ignore[union-attr]


async def test_every_character_of_an_answer_arrives() -> None:
    text = "".join(map(chr, range(1, 128))) + "é\u2028\u2029 漢字 😀"
    script = Script(text, reasoning=text, tool_calls=((text, json.dumps({"a": text})),), stop_string=text)
    async with serve(backend=FakeBackend(lambda _: script)) as served:
        asked: dict[str, Any] = {**ASK, "logprobs": True, "return_token_ids": True, "reasoning_logprobs": True}
        data = request("POST", CHAT, "Connection: close", body=json.dumps(asked).encode())
        (choice,) = json.loads(raw(await until_closed(served, data)).body)["choices"]

    message = choice["message"]
    assert message["content"] == message["reasoning"] == message["reasoning_content"] == text
    assert message["tool_calls"][0]["function"] == {"name": text, "arguments": json.dumps({"a": text})}
    assert (choice["stop_reason"], choice["finish_reason"]) == (text, "tool_calls")
    assert b"".join(bytes(item["bytes"]) for item in choice["logprobs"]["content"]).decode() == text + text
    assert bytes(choice["token_ids"]).decode() == text + text


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (request("POST", CHAT, "Connection: close", "Content-Encoding: br", body=b"{}"), 415),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Encoding: zstd\r\n\r\n{}",
            415,
        ),
        (request("POST", CHAT, "Connection: close", "Content-Encoding: odd", body=b"{}"), 415),
    ],
    ids=["framing", "long header", "bad header", "br", "zstd", "odd encoding"],
)
async def test_what_the_library_cannot_read_has_a_reply_of_ours(data: bytes, status: int, served: Served) -> None:
    head, _, body = (await until_closed(served, data)).partition(b"\r\n\r\n")

    assert head.split()[1] == str(status).encode()
    assert b"application/json" in head
    assert b"x-request-id: " in head.lower()
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
