"""One connection of the HTTP library, with replies of ours for what it cannot read. The one place that knows how the
library makes connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeAlias, cast

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError

from qwenserve.router.http.transport.errors import ErrorFormat, error_headers
from qwenserve.router.http.transport.reply import Reply
from qwenserve.runtime.errors import InvalidRequest, QueueFull, ServiceError, UnsupportedEncoding
from qwenserve.runtime.ids import new_id
from qwenserve.runtime.logs import EventLog

_JSON = "application/json"
# A client that is refused may still be sending; closed at once, it would be told of a reset and not of the reply.
_LINGER_S = 1.0
_RETRY_AFTER_S = 1
_log = EventLog("http")


Told: TypeAlias = Callable[[ServiceError, str], None]


class Connection(web.RequestHandler):
    """Replies in JSON, with a request id, where a request's head or body cannot be read."""

    def __init__(self, server: Any, errors: ErrorFormat, told: Told, **given: Any) -> None:
        super().__init__(server, **given)
        self._errors = errors
        self._told = told

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Returns the reply to what the library could not read; the connection is closed after it."""
        if status >= 500 or exc is None:
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionError("a reply was begun; there is no room for another one")
        error = unreadable(exc)
        request_id = new_id()
        self._told(error, request_id)
        headers = {"Content-Type": _JSON, "x-request-id": request_id, **error_headers(error)}
        reply = Reply(error.http_status, headers, self._errors.body(error, request_id))
        reply.force_close()
        return reply


def unreadable(fault: BaseException) -> ServiceError:
    """Returns the error that a client is told for what the library could not read."""
    text = str(fault).partition("\n")[0].strip()[:200] or type(fault).__name__
    if isinstance(fault, ContentEncodingError):
        return UnsupportedEncoding(
            "the body's Content-Encoding cannot be read; send it as it is, or with gzip or deflate"
        )
    return InvalidRequest(f"the request is no HTTP that can be read: {text}")


class Server(web.Server):
    """Makes a `Connection` for each client, `most` at a time; the others are told to come back."""

    def __init__(self, handler: Any, errors: ErrorFormat, told: Told, most: int, **given: Any) -> None:
        super().__init__(handler, **given)
        self._errors = errors
        self._told = told
        self._most = most
        self._full = False

    def __call__(self) -> Any:
        """Returns what serves one connection."""
        full = len(self._connections) >= self._most
        if full is not self._full:
            self._full = full
            if full:
                _log.warning("too_many_connections", connections=self._most)
        if full:
            return _Refusal(self._errors, self._most)
        return Connection(self, self._errors, self._told, loop=self._loop, **self._kwargs)


class _Refusal(asyncio.Protocol):
    """Answers 429 to whatever comes, and closes."""

    def __init__(self, errors: ErrorFormat, most: int) -> None:
        self._errors = errors
        self._most = most
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Replies."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by type
        text = f"{self._most} connections are open, the most that are taken; come back later, or keep fewer open"
        error = QueueFull(text, retry_after_s=_RETRY_AFTER_S)
        request_id = new_id()
        body = self._errors.body(error, request_id)
        headers = {
            "Content-Type": _JSON,
            "Content-Length": str(len(body)),
            "Connection": "close",
            "x-request-id": request_id,
            **error_headers(error),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        status = HTTPStatus(error.http_status)
        transport.write(f"HTTP/1.1 {status} {status.phrase}\r\n{head}\r\n".encode() + body)
        if transport.can_write_eof():
            transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(_LINGER_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        if self._timer is not None:
            self._timer.cancel()
