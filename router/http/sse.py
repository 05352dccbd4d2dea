"""The way of an event to the socket: rendered, framed and written in the call that delivers it.

No task wakes up per token: the sink writes to the connection's transport itself, from the head to the end of the body.
The head leaves with the first events and the end with the last ones, in one write each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.http.chunks import Chunks, Frame
from qwenserve.router.http.errors import defect, error_body
from qwenserve.runtime.errors import ServiceError, SlowReader
from qwenserve.runtime.json_text import quoted  # with quotation marks; non-ASCII text as it is
from qwenserve.runtime.logs import EventLog

_log = EventLog("http")


_LAST_CHUNK = b"0\r\n\r\n"


class SseSink:
    """An EventSink for one streamed answer.

    `head` returns the head of the reply; it is asked for at the first event, when the answer's start is known. `ended`
    resolves at the last event or at a failure. `began` tells whether anything was sent, `error` what ended the answer
    early, None where nothing did.
    """

    __slots__ = (
        "_chunked",
        "_chunks",
        "_closed",
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
        chunks: Chunks,
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
        self._chunks = chunks
        self._transport = transport
        self._head = head
        self._chunked = chunked
        self._limit = write_buffer_bytes
        self._request_id = request_id
        self._closed = False

    def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
        """Writes the chunks of these events."""
        if self._closed:
            return
        try:
            data = self._chunks.render(events).encode()
            head = b"" if self.began else self._head()
        except Exception as fault:  # a sink must not raise: its neighbours' events come from the same loop
            _log.error("render_failed", request_id=self._request_id, exc_info=fault)
            self.failed(defect())
            return
        self.began = True
        last = self._chunks.ended
        self._write(data, head=head, last=last)
        if last:
            self._end()

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None] | None:
        """Returns what writes deltas of plain text straight to the socket; None before the first event."""
        if not self.began:
            return None
        frame = self._chunks.text_frame(choice_index, reasoning)
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
            self._write(b"data: %b\n\n" % error_body(error), last=True)
        self._end()

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
    processor's caches, so each object that it touches costs; this holds all that is needed.
    """

    __slots__ = ("_between", "_head", "_length", "_limit", "_sink", "_tail", "_transport")

    def __init__(self, sink: SseSink, frame: Frame, transport: asyncio.Transport, limit: int) -> None:
        self._sink = sink
        self._transport = transport
        self._limit = limit
        self._head = frame.head.encode()
        self._between = frame.between.encode()
        self._tail = frame.tail.encode() + b"\r\n"
        # Of a chunk without its text; the line break at its end does not count.
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
