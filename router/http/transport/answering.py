"""Answers on their way to a client: streamed as they come, or whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from qwenserve.router.chat.fold import Fold
from qwenserve.router.chat.interface import EventSink, RunningAnswer
from qwenserve.router.http.transport.errors import ErrorFormat
from qwenserve.router.http.transport.exchange import Exchange
from qwenserve.router.http.transport.reply import Reply, StreamedReply
from qwenserve.router.http.transport.sse import SseSink, StreamFormat
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.errors import InternalError, ServiceError, SlowReader

_EVENT_STREAM = "text/event-stream; charset=utf-8"
# Neither caches nor proxies may keep events back.
_NOT_HELD = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def stream(
    exchange: Exchange,
    form: StreamFormat,
    config: HttpConfig,
    start: Callable[[EventSink], Awaitable[RunningAnswer]],
    *,
    errors: ErrorFormat | None = None,
) -> Reply:
    """Streams one answer. The router ends every answer in time, so the waits here have its limits. `errors` tells the
    errors of a stream that has begun, where that differs from how the face tells others.
    """
    request = exchange.request
    exchange.stream = True
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client went away")
    reply = StreamedReply(request)

    def head() -> bytes:
        if form.started is not None:  # None where a keep-alive comment is sent before the answer starts
            exchange.note_start(form.started)
        return reply.head({**exchange.headers(_EVENT_STREAM), **_NOT_HELD})

    sink = SseSink(
        form,
        errors or exchange.errors,
        transport,
        head,
        chunked=reply.is_chunked,
        write_buffer_bytes=config.write_buffer_bytes,
        request_id=exchange.request_id,
    )
    exchange.keep_alives.add(sink, config.keepalive_s)
    answer: RunningAnswer | None = None
    try:
        answer = await start(sink)
        await sink.ended
        if not sink.began:
            raise sink.error or InternalError("the answer ended before it began")
        if isinstance(sink.error, SlowReader):
            raise ConnectionResetError("the client was cut off")
        return reply
    except ServiceError as error:
        if not sink.began:
            raise
        sink.failed(error)
        return reply
    finally:
        exchange.keep_alives.remove(sink)
        sink.close()
        if answer is not None:
            answer.cancel()
        exchange.error = sink.error
        exchange.usage = form.usage
        exchange.model = form.started.model if form.started is not None else exchange.model


async def until_complete(exchange: Exchange, fold: Fold, answer: RunningAnswer) -> None:
    """Waits for the end of an answer. Raises what ended it early."""
    try:
        await fold.ended
    finally:
        answer.cancel()
    fold.check()
    exchange.model = fold.start.model
    exchange.usage = fold.usage
    exchange.note_start(fold.start)
