"""`/v1/chat/completions` and `/v1/completions`, whole and streamed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.call import request_id
from qwenserve.router.chat.fold import Fold
from qwenserve.router.http.backend import Backend, EventSink, RunningAnswer
from qwenserve.router.http.body import read_body
from qwenserve.router.http.chunks import ChatChunks, ChunkPlan, Chunks, CompletionChunks
from qwenserve.router.http.draft import Draft
from qwenserve.router.http.exchange import Exchange
from qwenserve.router.http.reply import Reply, StreamedReply
from qwenserve.router.http.requests import CHAT_BODY, COMPLETION_BODY, read_chat, read_completion
from qwenserve.router.http.sse import SseSink
from qwenserve.router.http.whole import chat_body, completion_body
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.errors import InternalError, SlowReader

_EVENT_STREAM = "text/event-stream; charset=utf-8"
# Neither caches nor proxies may keep events back.
_NOT_HELD = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class GenerationEndpoints:
    """The two endpoints that generate."""

    def __init__(self, backend: Backend, config: HttpConfig) -> None:
        self._backend = backend
        self._config = config

    async def chat(self, exchange: Exchange) -> Reply:
        """Answers a conversation."""
        body = await read_body(exchange.request, self._config)
        draft = read_chat(CHAT_BODY.read(body))
        message = draft.request
        _note(exchange, draft)
        call = exchange.call()
        exchange.handed_over = True
        if draft.stream:
            plan = ChunkPlan(message.n or 1, 1, draft.include_usage, draft.has_logprobs, message.return_token_ids)
            return await self._stream(
                exchange, ChatChunks(plan), lambda sink: self._backend.stream_chat(message, call, sink)
            )
        fold = Fold()
        await _until_complete(exchange, fold, await self._backend.stream_chat(message, call, fold))
        return exchange.reply(chat_body(fold, logprobs=draft.has_logprobs, token_ids=message.return_token_ids))

    async def completion(self, exchange: Exchange) -> Reply:
        """Continues texts or token ids."""
        body = await read_body(exchange.request, self._config)
        draft = read_completion(COMPLETION_BODY.read(body))
        message = draft.request
        _note(exchange, draft)
        call = exchange.call()
        exchange.handed_over = True
        if draft.stream:
            prompts = len(message.prompts)
            plan = ChunkPlan(
                (message.n or 1) * prompts, prompts, draft.include_usage, draft.has_logprobs, message.return_token_ids
            )
            return await self._stream(
                exchange, CompletionChunks(plan), lambda sink: self._backend.stream_completion(message, call, sink)
            )
        fold = Fold()
        await _until_complete(exchange, fold, await self._backend.stream_completion(message, call, fold))
        return exchange.reply(
            completion_body(
                fold,
                _leads(message, fold),
                max(1, message.n),
                logprobs=draft.has_logprobs,
                token_ids=message.return_token_ids,
            )
        )

    async def _stream(
        self, exchange: Exchange, chunks: Chunks, start: Callable[[EventSink], Awaitable[RunningAnswer]]
    ) -> Reply:
        """Streams one answer. The router ends every answer in time, so the waits here have its limits."""
        request = exchange.request
        exchange.stream = True
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        reply = StreamedReply(request)

        def head() -> bytes:
            if chunks.started is None:
                raise ValueError("an answer begins with its start")
            exchange.note_ignored(chunks.started.ignored_params)
            return reply.head({**exchange.headers(_EVENT_STREAM), **_NOT_HELD})

        sink = SseSink(
            chunks,
            transport,
            head,
            chunked=reply.is_chunked,
            write_buffer_bytes=self._config.write_buffer_bytes,
            request_id=exchange.request_id,
        )
        answer = await start(sink)
        try:
            await sink.ended
            if not sink.began:
                raise sink.error or InternalError("the answer ended before it began")
            if isinstance(sink.error, SlowReader):
                raise ConnectionResetError("the client was cut off")
            return reply
        finally:
            sink.close()
            answer.cancel()
            exchange.error = sink.error
            exchange.usage = chunks.usage
            exchange.model = chunks.started.model if chunks.started is not None else exchange.model


def _note(exchange: Exchange, draft: Draft) -> None:
    message = draft.request
    exchange.model = message.model
    if draft.request_id and "x-request-id" not in exchange.request.headers:
        exchange.request_id = request_id(draft.request_id)
    message.request_id = exchange.request_id
    exchange.ignore(draft.ignored)


async def _until_complete(exchange: Exchange, fold: Fold, answer: RunningAnswer) -> None:
    """Waits for the end of an answer. Raises what ended it early."""
    try:
        await fold.complete()
    finally:
        answer.cancel()
    exchange.model = fold.start.model
    exchange.usage = fold.usage
    exchange.note_ignored(fold.start.ignored_params)


def _leads(request: chat_pb2.CompletionRequest, fold: Fold) -> list[int]:
    """Returns the length of the echoed prompt at the beginning of each choice's text, in characters."""
    if not request.echo:
        return [0] * len(fold.choices())
    leads = []
    for index, choice in fold.choices():
        prompt = request.prompts[index // max(1, request.n)]
        if prompt.WhichOneof("prompt") == "text":
            leads.append(len(prompt.text))
        else:
            leads.append(max(0, len(choice.text) - sum(len(item.token) for item in choice.logprobs)))
    return leads
