"""The way of an event to the socket: rendered, framed and written in the call that delivers it.

No task wakes up per token: the sink writes to the connection's transport itself. aiohttp sends the headers and the
end of the body; between the two the connection is this sink's alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring as quoted  # with quotation marks; non-ASCII text as it is

from qwenserve.chat.v1 import chat_pb2
from router.http.chunks import Chunks, Frame
from router.http.errors import defect, error_body
from runtime.errors import ServiceError, SlowReader
from runtime.logs import EventLog

_log = EventLog("http")


class SseSink:
    """An EventSink for one streamed answer.

    `started` resolves at the first event or failure, `ended` at the last one; `began` tells which of the two the
    first was. What comes before `attach` is kept. `error` is what ended the answer early, None where nothing did.
    """

    __slots__ = (
        "_chunked",
        "_chunks",
        "_closed",
        "_kept",
        "_limit",
        "_request_id",
        "_transport",
        "began",
        "ended",
        "error",
        "started",
    )

    def __init__(self, chunks: Chunks, *, write_buffer_bytes: int, request_id: str) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.began = False
        self.error: ServiceError | None = None
        self._chunks = chunks
        self._limit = write_buffer_bytes
        self._request_id = request_id
        self._transport: asyncio.Transport | None = None
        self._chunked = True
        self._kept: list[bytes] = []
        self._closed = False

    def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
        """Writes the chunks of these events."""
        if self._closed:
            return
        try:
            text = self._chunks.render(events)
        except Exception as fault:  # a sink must not raise: its neighbours' events come from the same loop
            _log.error("render_failed", request_id=self._request_id, exc_info=fault)
            self.failed(defect())
            return
        if text:
            self._write(text.encode())
        if not self.began:
            self.began = True
            self.started.set_result(None)
        if self._chunks.ended:
            self._end()

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None] | None:
        """Returns what writes deltas of plain text straight to the socket; None before `attach`."""
        if self._transport is None:
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
            self._write(b"data: %b\n\n" % error_body(error))
        else:
            self.started.set_result(None)
        self._end()

    def attach(self, transport: asyncio.Transport, *, chunked: bool) -> None:
        """Writes what was kept, and from now on directly. Called when the headers have been sent."""
        self._transport = transport
        self._chunked = chunked
        kept, self._kept = b"".join(self._kept), []
        if kept:
            self._write(kept)

    def close(self) -> None:
        """Takes no more events."""
        self._closed = True

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            self._kept.append(data)
            return
        if transport.is_closing():
            return
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if transport.get_write_buffer_size() > self._limit:
            self.cut_off()

    def cut_off(self) -> None:
        """Ends the stream of a client that does not read."""
        if self._closed or self._transport is None:
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
