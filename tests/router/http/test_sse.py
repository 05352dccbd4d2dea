"""The sink alone: what it writes, and that it never raises into the reader that feeds it."""

from __future__ import annotations

import asyncio

import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.http.openai.chunks import ChatChunks, ChunkPlan
from qwenserve.router.http.openai.errors import OPENAI_ERRORS
from qwenserve.router.http.openai.parts import Shown
from qwenserve.router.http.transport.sse import SseSink
from qwenserve.runtime.errors import InternalError, WorkerLost
from qwenserve.type.v1 import sampling_pb2

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


HEAD = b"head of the reply\r\n\r\n"


def sink(wire: Wire, *, choices: int = 1, chunked: bool = True) -> SseSink:
    plan = ChunkPlan(choices, 1, include_usage=False, usage_so_far=False, shown=Shown())
    return SseSink(
        ChatChunks(plan), OPENAI_ERRORS, wire, lambda: HEAD, chunked=chunked, write_buffer_bytes=1000, request_id="r"
    )


def texts(data: bytes) -> list[bytes]:
    return [piece.partition(b'"')[0] for piece in data.split(b'"content":"')[1:]]


async def test_one_step_is_one_write_and_one_chunk_per_kind() -> None:
    wire = Wire()
    made = sink(wire)
    made.events([START])
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
    wire = Wire()
    made = sink(wire, choices=2, chunked=False)
    made.events([START])
    wire.data = b""

    made.events([Event(choice_index=index, content_delta=text) for index, text in ((0, "a"), (1, "b"), (0, "c"))])

    assert texts(wire.data) == [b"a", b"b", b"c"]


async def test_a_delta_without_text_sends_nothing() -> None:
    wire = Wire()
    made = sink(wire)
    made.events([START])
    before = wire.writes

    made.events([Event(content_delta="")])

    assert wire.writes == before


@pytest.mark.parametrize("chunked", [True, False])
async def test_the_head_leaves_with_the_first_events_and_the_end_with_the_last(chunked: bool) -> None:
    wire = Wire()
    made = sink(wire, chunked=chunked)

    made.events([START, Event(content_delta="a")])
    assert wire.writes == 1
    assert wire.data.startswith(HEAD)
    assert texts(wire.data) == [b"", b"a"]
    made.events([Event(usage=sampling_pb2.Usage())])

    assert wire.writes == 2
    assert wire.data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if chunked else b"data: [DONE]\n\n")
    assert made.ended.done()


async def test_a_failure_after_the_first_event_is_the_streams_last_event() -> None:
    wire = Wire()
    made = sink(wire)

    made.events([START, Event(content_delta="a")])
    made.failed(WorkerLost("gone"))

    assert b"worker_lost" in wire.data.rpartition(b"data: ")[2]
    assert wire.data.endswith(b"\n\n\r\n0\r\n\r\n")
    assert made.ended.done()


async def test_a_failure_before_the_first_event_sends_nothing() -> None:
    wire = Wire()
    made = sink(wire)

    made.failed(WorkerLost("gone"))

    assert (wire.writes, made.began, made.ended.done()) == (0, False, True)
    assert isinstance(made.error, WorkerLost)


async def test_nothing_is_written_after_the_end() -> None:
    wire = Wire()
    made = sink(wire, chunked=False)
    made.events([START, Event(usage=sampling_pb2.Usage())])
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
    wire = Wire()
    made = sink(wire)

    made.events(events)

    assert isinstance(made.error, InternalError)
    assert (wire.writes, made.began, made.ended.done()) == (0, False, True)
    assert [record.message for record in caplog.records] == ["render_failed"]
