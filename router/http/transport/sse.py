"""Writes events to the socket: each is rendered, framed and written in the call that delivers it.

No task wakes up per token: the sink writes to the connection's transport itself, from the head to the end of the body.
The head leaves with the first events and the end with the last ones, in one write each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.events import text_event
from qwenserve.router.http.transport.errors import ErrorFormat, defect
from qwenserve.runtime.errors import ServiceError, SlowReader
from qwenserve.runtime.json_text import quoted  # with quotation marks; non-ASCII text as it is
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.values import frozen_value
from qwenserve.type.v1 import sampling_pb2

_log = EventLog("http")

_COMMENT = b": still there\n\n"
_LAST_CHUNK = b"0\r\n\r\n"


@frozen_value
class Frame:
    """The JSON around the text in a chunk of one delta of plain text. Where the text is sent under a second name too,
    `between` and the text again stand before the tail; else `between` is empty.
    """

    head: str
    between: str
    tail: str

    def chunk(self, text: str) -> str:
        """Returns the chunk."""
        shown = quoted(text)
        return f"{self.head}{shown}{self.between}{shown}{self.tail}" if self.between else self.head + shown + self.tail


class StreamFormat(Protocol):
    """How a face writes an answer as it comes: events in, text ready to send out. The first event is `start`, the last
    one `usage`.
    """

    @property
    def started(self) -> chat_pb2.StreamStart | None:
        """The answer's start, once it was rendered."""

    @property
    def usage(self) -> sampling_pb2.Usage | None:
        """The token counts, once the last event was rendered."""

    def render(self, events: Sequence[chat_pb2.ChatEvent]) -> str:
        """Returns what is sent for these events; empty where they have nothing."""

    def text_frame(self, choice_index: int, reasoning: bool) -> Frame | None:
        """Returns the frame of a choice's deltas of plain text, equal to what `render` makes of their events. None
        where that depends on what came before, or where none are shown: the deltas then go through `render`.
        """


class SseSink:
    """An EventSink for one streamed answer.

    `head` returns the head of the reply; it is asked for at the first event, when the answer's start is known. `ended`
    resolves at the last event or at a failure. `began` tells whether anything was sent, `error` what ended the answer
    early, None where nothing did.
    """

    __slots__ = (
        "_chunked",
        "_closed",
        "_errors",
        "_format",
        "_head",
        "_limit",
        "_request_id",
        "_transport",
        "began",
        "ended",
        "error",
    )

    def __init__(
        self,
        form: StreamFormat,
        errors: ErrorFormat,
        transport: asyncio.Transport,
        head: Callable[[], bytes],
        *,
        chunked: bool,
        write_buffer_bytes: int,
        request_id: str,
    ) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began = False
        self.error: ServiceError | None = None
        self._format = form
        self._errors = errors
        self._transport = transport
        self._head = head
        self._chunked = chunked
        self._limit = write_buffer_bytes
        self._request_id = request_id
        self._closed = False

    def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
        """Writes what the face makes of these events."""
        if self._closed:
            return
        try:
            data = self._format.render(events).encode()
            head = b"" if self.began else self._head()
        except Exception as fault:  # a sink must not raise: its neighbours' events come from the same loop
            _log.error("render_failed", request_id=self._request_id, exc_info=fault)
            self.failed(defect())
            return
        self.began = True
        last = self._format.usage is not None
        self._write(data, head=head, last=last)
        if last:
            self._end()

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None] | None:
        """Returns what writes deltas of plain text straight to the socket; None before the first event."""
        if self._format.started is None:
            return None
        frame = self._format.text_frame(choice_index, reasoning)
        if frame is None:
            return lambda text: self.events((text_event(choice_index, text, reasoning),))
        if not self._chunked:
            return lambda text: self._write(frame.chunk(text).encode())
        writer = _DeltaWriter(self, frame, self._transport, self._limit)
        return writer.write_twice if frame.between else writer.write

    def failed(self, error: ServiceError) -> None:
        """Ends the stream with an error event; before the first event the error becomes the whole reply."""
        if self._closed:
            return
        self.error = error
        if self.began:
            self._write(self._errors.event(error, self._request_id), last=True)
        self._end()

    def keep_alive(self) -> None:
        """Writes a comment, which clients skip. The head leaves with it; an error is an event then."""
        if self._closed:
            return
        head = b"" if self.began else self._head()
        self.began = True
        self._write(_COMMENT, head=head)

    def close(self) -> None:
        """Takes no more events."""
        self._closed = True

    def _write(self, data: bytes, *, head: bytes = b"", last: bool = False) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        if self._chunked:
            framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            data = framed + _LAST_CHUNK if last else framed
        if head or data:
            transport.write(head + data)
        if transport.get_write_buffer_size() > self._limit:
            self.cut_off()

    def cut_off(self) -> None:
        """Ends the stream of a client that does not read."""
        if self._closed:
            return
        self.error = SlowReader(f"the client left more than {self._limit} bytes unread")
        # Closing would wait for the unread bytes to leave.
        self._transport.abort()
        self._end()

    def _end(self) -> None:
        self._closed = True
        if not self.ended.done():
            self.ended.set_result(None)


class _DeltaWriter:
    """Frames and writes deltas of plain text of one kind and choice, in chunked encoding.

    A token passes through here alone, once for every step of the engine. Between two steps its memory has left the
    processor's caches, so each object that it touches costs; this one object holds all that is needed.
    """

    __slots__ = ("_between", "_head", "_length", "_limit", "_sink", "_tail", "_transport")

    def __init__(self, sink: SseSink, frame: Frame, transport: asyncio.Transport, limit: int) -> None:
        self._sink = sink
        self._transport = transport
        self._limit = limit
        self._head = frame.head.encode()
        self._between = frame.between.encode()
        self._tail = frame.tail.encode() + b"\r\n"
        # Bytes of a chunk without its text and without the line break at its end.
        self._length = len(self._head) + len(self._between) + len(self._tail) - 2

    def write(self, text: str) -> None:
        """Writes one delta."""
        transport = self._transport
        if transport.is_closing():
            return
        shown = quoted(text).encode()
        transport.write(b"%x\r\n%b%b%b" % (self._length + len(shown), self._head, shown, self._tail))
        if transport.get_write_buffer_size() > self._limit:
            self._sink.cut_off()

    def write_twice(self, text: str) -> None:
        """Writes one delta whose text has two names."""
        transport = self._transport
        if transport.is_closing():
            return
        shown = quoted(text).encode()
        length = self._length + 2 * len(shown)
        transport.write(b"%x\r\n%b%b%b%b%b" % (length, self._head, shown, self._between, shown, self._tail))
        if transport.get_write_buffer_size() > self._limit:
            self._sink.cut_off()
