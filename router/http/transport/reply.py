"""What the shim answers with: the head made at once from a few lines, and one write for all that is ready.

aiohttp's own `Response` keeps its headers in a multi-dictionary, fills in what is missing and serializes the whole
again for every reply: a quarter of what a small request costs there. Here only `StreamResponse`'s public seam is used:
aiohttp's server calls `prepare` and `write_eof` on what a handler returns, and asks it for `keep_alive`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate

from aiohttp import HttpVersion10, HttpVersion11, web


class Reply(web.StreamResponse):
    """A whole reply. Names and values of headers are ASCII without line breaks, or it is not sent; `Date`, `Server`,
    `Content-Length` and `Connection` come by themselves.
    """

    def __init__(self, status: int, fields: Mapping[str, str], body: bytes = b"") -> None:
        super().__init__(status=status)
        self._fields = fields
        self._content = body
        self._to: web.BaseRequest  # known once the reply is prepared
        self._stays_open = True

    @property
    def keep_alive(self) -> bool:
        """Whether the connection can take another request after this reply."""
        return self._stays_open

    def force_close(self) -> None:
        """Makes this reply the connection's last one."""
        self._stays_open = False

    async def prepare(self, request: web.BaseRequest) -> None:
        """Takes the request that is answered; nothing is sent yet."""
        self._to = request
        self._stays_open = self._stays_open and request.keep_alive

    async def write_eof(self, data: bytes = b"") -> None:
        """Sends the reply. Raises ConnectionError where the client has gone."""
        request = self._to
        content = self._content
        length = "" if self.status == 204 else f"Content-Length: {len(content)}\r\n"
        await request.writer.write_eof(self._lines(request, length) + (b"" if request.method == "HEAD" else content))

    def _lines(self, request: web.BaseRequest, framing: str) -> bytes:
        version = request.version
        fields = "\r\n".join([*map(": ".join, self._fields.items()), ""])
        if fields.count("\n") != len(self._fields) or fields.count("\r") != len(self._fields):
            raise ValueError("a header holds a line break")
        if self._stays_open:
            connection = "Connection: keep-alive\r\n" if version == HttpVersion10 else ""
        else:
            connection = "Connection: close\r\n" if version == HttpVersion11 else ""
        head = (
            f"HTTP/{version[0]}.{version[1]} {self.status} {self.reason}\r\n"
            f"{fields}{framing}{connection}Date: {_date()}\r\nServer: qwenserve\r\n\r\n"
        )
        return head.encode("ascii")


class StreamedReply(Reply):
    """A reply that somebody else writes to the connection, from `head` to the end of its body."""

    def __init__(self, request: web.BaseRequest) -> None:
        super().__init__(200, {})
        self._to = request
        # HTTP/1.0 has no chunks: the end of the connection is the only way to mark a body's end.
        self.is_chunked = request.version >= HttpVersion11
        self._stays_open = self.is_chunked and request.keep_alive

    def head(self, fields: Mapping[str, str]) -> bytes:
        """Returns the lines before the body."""
        self._fields = fields
        return self._lines(self._to, "Transfer-Encoding: chunked\r\n" if self.is_chunked else "")

    async def prepare(self, request: web.BaseRequest) -> None:
        """Does nothing: the reply has been sent."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Waits until the connection takes more. Raises ConnectionError where the client has gone."""
        await self._to.writer.drain()


_date_second = 0
_date_text = ""


def _date() -> str:
    """Returns the time as HTTP writes it; the text is made once a second."""
    global _date_second, _date_text
    second = int(time.time())
    if second != _date_second:
        _date_second = second
        _date_text = formatdate(second, usegmt=True)
    return _date_text
