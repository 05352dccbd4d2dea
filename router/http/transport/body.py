"""Request bodies: read whole, within a size and a time."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import HttpVersion11, http_exceptions, web

from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.errors import InvalidRequest, RequestTimeout, RequestTooLarge

_BROKEN = (web.RequestPayloadError, http_exceptions.BadHttpMessage)


async def read_body(request: web.BaseRequest, config: HttpConfig) -> bytes:
    """Returns the body. Raises RequestTooLarge, RequestTimeout, or InvalidRequest where its framing is broken."""
    max_bytes = config.max_body_bytes
    if request.content.is_eof():
        return _read_now(request, max_bytes)  # already here, as small bodies mostly are: no timer, no waiting
    length = request.content_length
    if length is not None and length > max_bytes:
        raise _too_large(max_bytes)
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return await _read_in_time(request, max_bytes, config.body_timeout_s)


async def _read_in_time(request: web.BaseRequest, max_bytes: int, timeout_s: float) -> bytes:
    # asyncio.wait_for would start a task per request, and asyncio.timeout needs Python 3.11.
    task = asyncio.current_task()
    assert task is not None
    late = False

    def give_up() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(timeout_s, give_up)
    try:
        return await _read(request, max_bytes)
    except asyncio.CancelledError:
        if not late:
            raise
        if sys.version_info >= (3, 11):
            task.uncancel()
        raise RequestTimeout(f"the body was not complete after {timeout_s:g} s") from None
    finally:
        timer.cancel()


def _read_now(request: web.BaseRequest, max_bytes: int) -> bytes:
    try:
        body = request.content.read_nowait()
    except _BROKEN as error:
        raise _broken(error) from None
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


async def _read(request: web.BaseRequest, max_bytes: int) -> bytes:
    body = bytearray()
    try:
        while part := await request.content.readany():
            body += part
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
    except _BROKEN as error:
        raise _broken(error) from None
    return bytes(body)


def _broken(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"the body's framing is broken: {type(error).__name__}")


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body is over the limit of {max_bytes} bytes")
