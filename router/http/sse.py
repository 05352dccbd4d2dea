"""The way of an event to the socket: rendered, framed and written in the call that delivers it.

No task wakes up per token: the sink writes to the connection's transport itself. aiohttp sends the headers and the
end of the body; between the two the connection is this sink's alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from qwenserve.chat.v1 import chat_pb2
from router.http.chunks import Chunks
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

    def text(self, choice_index: int, text: str, reasoning: bool) -> None:
        """Writes the chunk of one delta."""
        if not self._closed:
            self._write(self._chunks.text(choice_index, text, reasoning).encode())

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
            self.error = SlowReader(f"the client left more than {self._limit} bytes unread")
            # Closing would wait for the unread bytes to leave.
            transport.abort()
            self._end()

    def _end(self) -> None:
        self._closed = True
        if not self.ended.done():
            self.ended.set_result(None)
