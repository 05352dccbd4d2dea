"""One connection of the HTTP library, with replies of ours for what it cannot read. The one place that knows how the
library makes connections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError

from qwenserve.router.http.transport.errors import ErrorFormat, error_headers
from qwenserve.router.http.transport.reply import Reply
from qwenserve.runtime.errors import InvalidRequest, ServiceError, UnsupportedEncoding
from qwenserve.runtime.ids import new_id

_JSON = "application/json"


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
    """Makes a `Connection` for each client."""

    def __init__(self, handler: Any, errors: ErrorFormat, told: Told, **given: Any) -> None:
        super().__init__(handler, **given)
        self._errors = errors
        self._told = told

    def __call__(self) -> web.RequestHandler:
        """Returns what serves one connection."""
        return Connection(self, self._errors, self._told, loop=self._loop, **self._kwargs)
