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

_LAST_CHUNK = b"0\r\n\r\n"


class Reply(web.StreamResponse):
    """A whole reply. Names and values of headers are ASCII without line breaks, or it is not sent; `Date`, `Server`,
    `Content-Length` and `Connection` come by themselves.
    """

    def __init__(self, status: int, fields: Mapping[str, str], body: bytes = b"") -> None:
        super().__init__(status=status)
        self._fields = fields
        self._content = body
        self._to: web.BaseRequest | None = None
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
        assert request is not None
        content = self._content
        length = "" if self.status == 204 else f"Content-Length: {len(content)}\r\n"
        await request.writer.write_eof(self._head(request, length) + (b"" if request.method == "HEAD" else content))

    def _head(self, request: web.BaseRequest, framing: str) -> bytes:
        version = request.version
        lines = "".join([f"{name}: {value}\r\n" for name, value in self._fields.items()])
        if lines.count("\n") != len(self._fields) or lines.count("\r") != len(self._fields):
            raise ValueError("a header holds a line break")
        if self._stays_open:
            connection = "Connection: keep-alive\r\n" if version == HttpVersion10 else ""
        else:
            connection = "Connection: close\r\n" if version == HttpVersion11 else ""
        head = (
            f"HTTP/{version[0]}.{version[1]} {self.status} {self.reason}\r\n"
            f"{lines}{framing}{connection}Date: {_date()}\r\nServer: qwenserve\r\n\r\n"
        )
        return head.encode("ascii")


class StreamedReply(Reply):
    """A reply whose body is written to the connection by somebody else, between `begin` and the end."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(200, fields)
        self._chunked = False

    def begin(self, request: web.BaseRequest) -> tuple[bytes, bool]:
        """Returns the head, and whether the body must be in chunks. HTTP/1.0 has none: its bodies end with the
        connection.
        """
        self._to = request
        self._chunked = request.version >= HttpVersion11
        self._stays_open = self._stays_open and self._chunked and request.keep_alive
        return self._head(request, "Transfer-Encoding: chunked\r\n" if self._chunked else ""), self._chunked

    async def prepare(self, request: web.BaseRequest) -> None:
        """Does nothing: the reply has begun."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Ends the body. Raises ConnectionError where the client has gone."""
        assert self._to is not None
        await self._to.writer.write_eof(_LAST_CHUNK if self._chunked else b"")


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
