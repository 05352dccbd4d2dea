"""The reply parser gives the same record however the bytes arrive; connections are kept while they are open."""

from __future__ import annotations

import asyncio
import json

import pytest

from qwenserve.bench.clients.endpoint import Generation
from qwenserve.bench.clients.http import HttpEndpoint, Target
from qwenserve.bench.clients.http_reply import BadReply, Reply, unchunk
from qwenserve.bench.record import Record
from qwenserve.bench.samples import Sample
from tests.bench.servers import event

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
WORDS = [event({"choices": [{"index": 0, "delta": {"content": word}}]}) for word in ("Grün", " data: x", " 你好")]
FINISH = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = event(
    {
        "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}},
    }
)
DONE = b"data: [DONE]\n\n"


def chunked(*events: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in events) + b"0\r\n\r\n"


ANSWERS = {
    "a chunk per event": HEAD + chunked(ROLE, *WORDS, FINISH, USAGE, DONE),
    "all in one chunk": HEAD + chunked(b"".join([ROLE, *WORDS, FINISH, USAGE, DONE])),
    "no role event": HEAD + chunked(*WORDS, FINISH, USAGE, DONE),
    "usage with the finish": HEAD + chunked(ROLE, *WORDS, FINISH + USAGE + DONE),
}


def fed(pieces: list[bytes], *, keep_text: bool = False) -> Record:
    record = Record(0, asked_tokens=4)
    reply = Reply(record, keep_text=keep_text)
    complete = [reply.feed(piece, float(number)) for number, piece in enumerate(pieces)]

    assert [False] * (len(pieces) - 1) + [True] == complete

    reply.finish()
    return record


@pytest.mark.parametrize("raw", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("keep_text", [False, True])
def test_every_two_way_split_gives_the_same_record(raw: bytes, keep_text: bool) -> None:
    """Three events carry content, whatever the network does to them."""
    for at in range(1, len(raw)):
        record = fed([raw[:at], raw[at:]], keep_text=keep_text)

        assert (
            record.events,
            record.completion_tokens,
            record.prompt_tokens,
            record.cached_tokens,
            record.finish_reason,
            record.error,
        ) == (3, 4, 7, 2, "stop", "")
        assert record.text == ("Grün data: x 你好" if keep_text else "")


@pytest.mark.parametrize("raw", ANSWERS.values(), ids=ANSWERS.keys())
def test_one_byte_at_a_time(raw: bytes) -> None:
    """The reply is complete exactly at its last byte."""
    record = fed([raw[i : i + 1] for i in range(len(raw))])

    assert record.events == 3
    assert record.error == ""


def test_first_content_sets_the_first_stamp() -> None:
    """A role-only event is not the first token, and the finish is not the last."""
    events = [ROLE, *WORDS, FINISH, USAGE, DONE]
    pieces = [HEAD, *(b"%x\r\n%b\r\n" % (len(one), one) for one in events), b"0\r\n\r\n"]

    record = fed(pieces)

    assert list(record.stamps) == [2.0, 3.0, 4.0]
    assert list(record.gaps()) == [1.0, 1.0]


def test_body_without_chunks_ends_with_its_length() -> None:
    """A server may send Content-Length instead."""
    body = b"".join([*WORDS, FINISH, USAGE, DONE])
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body)

    assert fed([head, body]).events == 3


def test_answer_of_one_token() -> None:
    """With a single content event nothing of it is taken back."""
    assert fed([HEAD + chunked(ROLE, WORDS[0], FINISH, USAGE, DONE)]).events == 1


def test_long_answer_keeps_only_its_end() -> None:
    """Memory is bounded, and the count stays exact."""
    word = event({"choices": [{"index": 0, "delta": {"content": "w" * 500}}]})
    pieces = [HEAD, *[b"%x\r\n%b\r\n" % (len(word), word)] * 4000, chunked(FINISH, USAGE, DONE)]

    record = fed(pieces)

    assert (record.events, record.completion_tokens, record.finish_reason, record.error) == (4000, 4, "stop", "")


def test_error_in_the_stream_is_the_records_error() -> None:
    """An error event ends the answer with its code as the reason."""
    failure = event({"error": {"message": "worker 3 died at 12:01", "code": "WORKER_LOST"}})

    assert fed([HEAD + chunked(ROLE, WORDS[0], failure)]).error == "in stream: WORKER_LOST"


def test_stream_without_done_is_an_error() -> None:
    """A stream that just stops is not a success."""
    assert fed([HEAD + chunked(ROLE, *WORDS)]).error == "stream ended without [DONE]"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"error": {"message": "too many (17)", "type": "rate_limit_error", "code": "busy"}}, "HTTP 429 busy"),
        ({"error": {"message": "no", "type": "rate_limit_error", "code": None}}, "HTTP 429 rate_limit_error"),
        ({"detail": "x"}, "HTTP 429"),
    ],
)
def test_status_and_code_group_failures(body: object, reason: str) -> None:
    """Reasons hold no text that differs from request to request."""
    text = json.dumps(body).encode()
    head = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: %d\r\n\r\n" % len(text)

    assert reason == fed([head + text]).error


def test_not_http() -> None:
    """What is no HTTP is refused at once."""
    with pytest.raises(BadReply):
        Reply(Record(0, asked_tokens=1)).feed(b"SSH-2.0-x\r\n\r\n", 0.0)


def test_unchunk_stops_at_an_incomplete_chunk() -> None:
    """Only complete chunks count."""
    assert unchunk(b"3\r\nabc\r\n5;x=y\r\nde") == b"abc"
    with pytest.raises(BadReply):
        unchunk(b"zz\r\nabc\r\n")


async def test_a_connection_that_the_server_closed_while_idle_is_not_used_again() -> None:
    """Servers close kept connections after a while, and a run goes on."""
    body = b'{"choices": [{"index": 0, "text": "w", "finish_reason": "length"}], "usage": {"completion_tokens": 1}}'
    opened = 0

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    async with await asyncio.start_server(answer_once, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        target = Target.parse(f"http://127.0.0.1:{port}")
        endpoint = HttpEndpoint(target, chat=False, generation=Generation(model="m", stream=False))
        prepared = endpoint.prepare(Sample(1, text="x"))
        for turn in range(2):
            await endpoint.send(prepared, record := Record(0, asked_tokens=1))
            assert record.error == ""
            # One more exchange on this loop: whatever the server has closed before is known after it.
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"\r\n\r\n")
            await reader.read()
            writer.close()
            assert opened == 2 * (turn + 1)
        await endpoint.close()
