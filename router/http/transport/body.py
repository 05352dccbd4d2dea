"""Request bodies: read whole, within a size and a time, and made into what an endpoint takes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TypeVar

from aiohttp import HttpVersion11, web

from qwenserve.router.http.transport.body_values import SMALL_BODY, count_values
from qwenserve.router.http.transport.parser_faults import BROKEN_BODY
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.errors import InvalidRequest, RequestTimeout, RequestTooLarge, UnsupportedEncoding

T = TypeVar("T")

# Counting takes 5 ms for a megabyte at most.
_COUNTED_INLINE = 1 << 20


_ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})


async def read_request(request: web.BaseRequest, config: HttpConfig, make: Callable[[bytes], T]) -> T:
    """Returns the result of `make` for the body, off the event loop where it holds much. Raises RequestTooLarge, for
    more values than are read too, RequestTimeout, UnsupportedEncoding, InvalidRequest where the body's framing is
    broken, and what `make` raises.
    """
    _check_encoding(request)
    if request.content.is_eof():  # as most have by now: no timer is needed
        body = _read_now(request, config.max_body_bytes)
    else:
        body = await _read_late(request, config)
    if len(body) <= SMALL_BODY:
        return make(body)
    # Even counting a large body on the event loop would delay the streams beside it.
    values = count_values(body) if len(body) <= _COUNTED_INLINE else await asyncio.to_thread(count_values, body)
    return make(body) if values.small else await asyncio.to_thread(make, body)


def _check_encoding(request: web.BaseRequest) -> None:
    encoding = request.headers.get("Content-Encoding")
    if encoding is not None and encoding.strip().lower() not in _ENCODINGS:
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding[:40]!r} cannot be read; send the body as it is, or with gzip or deflate"
        )


async def _read_late(request: web.BaseRequest, config: HttpConfig) -> bytes:
    max_bytes = config.max_body_bytes
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
    except BROKEN_BODY as error:
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
    except BROKEN_BODY as error:
        raise _broken(error) from None
    return bytes(body)


def _broken(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"the body's framing is broken: {type(error).__name__}")


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body is over the limit of {max_bytes} bytes")
