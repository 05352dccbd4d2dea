"""The sink alone: what it writes, and that it never raises into the reader that feeds it."""

from __future__ import annotations

import asyncio

import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.type.v1 import sampling_pb2
from router.http.chunks import ChatChunks, ChunkPlan
from router.http.sse import SseSink
from runtime.errors import InternalError, WorkerLost

Event = chat_pb2.ChatEvent
START = Event(start=chat_pb2.StreamStart(id="a", created=1, model="m"))


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.writes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data
        self.writes += 1

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def sink(*, choices: int = 1) -> SseSink:
    plan = ChunkPlan(choices, 1, include_usage=False, logprobs=False, token_ids=False)
    return SseSink(ChatChunks(plan), write_buffer_bytes=1000, request_id="r")


def texts(data: bytes) -> list[bytes]:
    return [piece.partition(b'"')[0] for piece in data.split(b'"content":"')[1:]]


async def test_one_step_is_one_write_and_one_chunk_per_kind() -> None:
    made, wire = sink(), Wire()
    made.events([START])
    made.attach(wire, chunked=True)
    before, wire.data = wire.writes, b""

    made.events(
        [Event(reasoning_delta="a"), Event(reasoning_delta="b"), Event(content_delta="c"), Event(content_delta="d")]
    )

    assert wire.writes == before + 1
    size, _, rest = wire.data.partition(b"\r\n")
    assert int(size, 16) == len(rest) - len(b"\r\n")
    assert rest.count(b"data: ") == 2
    assert b'{"reasoning_content":"ab","reasoning":"ab"}' in rest
    assert texts(rest) == [b"cd"]


async def test_choices_are_not_merged_with_each_other() -> None:
    made, wire = sink(choices=2), Wire()
    made.events([START])
    made.attach(wire, chunked=False)
    wire.data = b""

    made.events([Event(choice_index=index, content_delta=text) for index, text in ((0, "a"), (1, "b"), (0, "c"))])

    assert texts(wire.data) == [b"a", b"b", b"c"]


async def test_a_delta_without_text_sends_nothing() -> None:
    made, wire = sink(), Wire()
    made.events([START])
    made.attach(wire, chunked=True)
    before = wire.writes

    made.events([Event(content_delta="")])

    assert wire.writes == before


async def test_what_comes_before_the_headers_is_kept_in_order() -> None:
    made, wire = sink(), Wire()
    made.events([START, Event(content_delta="a")])
    made.events([Event(content_delta="b")])
    made.failed(WorkerLost("gone"))
    assert made.started.done()
    assert made.ended.done()

    made.attach(wire, chunked=False)

    assert texts(wire.data) == [b"", b"a", b"b"]
    assert b"WORKER_LOST".lower() in wire.data.rpartition(b"data: ")[2]


async def test_nothing_is_written_after_the_end() -> None:
    made, wire = sink(), Wire()
    made.events([START, Event(usage=sampling_pb2.Usage())])
    made.attach(wire, chunked=False)
    sent = wire.data

    made.events([Event(content_delta="late")])
    made.failed(WorkerLost("late"))

    assert wire.data == sent
    assert sent.endswith(b"data: [DONE]\n\n")
    assert made.error is None


@pytest.mark.parametrize(
    "events", [[Event(content_delta="no start")], [START, Event(choice_index=5, content_delta="x")]]
)
async def test_an_impossible_event_ends_the_answer_and_raises_nothing(
    events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    made = sink()

    made.events(events)

    assert isinstance(made.error, InternalError)
    assert not made.began
    assert made.started.done()
    assert made.ended.done()
    assert [record.message for record in caplog.records] == ["render_failed"]
