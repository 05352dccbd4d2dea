"""What aiohttp's parser raises for bytes that are not HTTP. Its names are no public API; see `transport.reply`."""

from __future__ import annotations

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError

# For a body whose framing is broken, wherever that is noticed.
BROKEN_BODY = (web.RequestPayloadError, BadHttpMessage)
# For anything that is not HTTP.
NO_HTTP = HttpProcessingError
