"""`/v1/chat/completions` and `/v1/completions`, whole and streamed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import HttpVersion11, web

from qwenserve.chat.v1 import chat_pb2
from router.http.backend import Backend, EventSink, RunningAnswer
from router.http.body import read_body
from router.http.chunks import ChatChunks, ChunkPlan, Chunks, CompletionChunks
from router.http.exchange import Exchange
from router.http.requests import CHAT_BODY, COMPLETION_BODY, Parsed, read_chat, read_completion
from router.http.sse import SseSink
from router.http.whole import chat_body, completion_body
from runtime.call import request_id
from runtime.config import HttpConfig
from runtime.errors import InternalError, SlowReader

_EVENT_STREAM = "text/event-stream; charset=utf-8"


class GenerationEndpoints:
    """The two endpoints that generate."""

    def __init__(self, backend: Backend, config: HttpConfig) -> None:
        self._backend = backend
        self._config = config

    async def chat(self, exchange: Exchange) -> web.StreamResponse:
        """Answers a conversation."""
        body = await read_body(exchange.request, self._config)
        parsed = read_chat(CHAT_BODY.read(body))
        message = parsed.message
        _note(exchange, parsed)
        call = exchange.call()
        exchange.handed_over = True
        logprobs = message.sampling.HasField("top_logprobs")
        if parsed.stream:
            plan = ChunkPlan(message.n or 1, 1, parsed.include_usage, logprobs, message.return_token_ids)
            return await self._stream(
                exchange, ChatChunks(plan), lambda sink: self._backend.stream_chat(message, call, sink)
            )
        answer = await self._backend.create_chat(message, call)
        _note_answer(exchange, answer)
        return exchange.reply(chat_body(answer, logprobs=logprobs, token_ids=message.return_token_ids))

    async def completion(self, exchange: Exchange) -> web.StreamResponse:
        """Continues texts or token ids."""
        body = await read_body(exchange.request, self._config)
        parsed = read_completion(COMPLETION_BODY.read(body))
        message = parsed.message
        _note(exchange, parsed)
        call = exchange.call()
        exchange.handed_over = True
        logprobs = message.sampling.HasField("top_logprobs")
        if parsed.stream:
            prompts = len(message.prompts)
            plan = ChunkPlan(
                (message.n or 1) * prompts, prompts, parsed.include_usage, logprobs, message.return_token_ids
            )
            return await self._stream(
                exchange, CompletionChunks(plan), lambda sink: self._backend.stream_completion(message, call, sink)
            )
        answer = await self._backend.create_completion(message, call)
        _note_answer(exchange, answer)
        return exchange.reply(
            completion_body(
                answer, logprobs=logprobs, token_ids=message.return_token_ids, leads=_leads(message, answer)
            )
        )

    async def _stream(
        self, exchange: Exchange, chunks: Chunks, start: Callable[[EventSink], Awaitable[RunningAnswer]]
    ) -> web.StreamResponse:
        """Streams one answer. The router ends every answer in time, so the waits here have its limits."""
        request = exchange.request
        exchange.stream = True
        sink = SseSink(chunks, write_buffer_bytes=self._config.write_buffer_bytes, request_id=exchange.request_id)
        answer = await start(sink)
        try:
            await sink.started
            if not sink.began or chunks.started is None:
                raise sink.error or InternalError("the answer ended before it began")
            exchange.note_ignored(chunks.started.ignored_params)
            headers = exchange.headers(_EVENT_STREAM)
            headers["Cache-Control"] = "no-cache"
            headers["X-Accel-Buffering"] = "no"  # proxies must not collect events
            response = web.StreamResponse(headers=headers)
            chunked = request.version >= HttpVersion11
            if not chunked:
                response.force_close()  # the end of the connection is the only end that HTTP/1.0 has
            await response.prepare(request)
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("the client went away")
            sink.attach(transport, chunked=chunked)
            await sink.ended
            if isinstance(sink.error, SlowReader):
                raise ConnectionResetError("the client was cut off")
            return response
        finally:
            sink.close()
            answer.cancel()
            exchange.error = sink.error
            exchange.usage = chunks.usage
            exchange.model = chunks.started.model if chunks.started is not None else exchange.model


def _note(exchange: Exchange, parsed: Parsed[Any]) -> None:
    message = parsed.message
    exchange.model = message.model
    if parsed.request_id and "x-request-id" not in exchange.request.headers:
        exchange.request_id = request_id(parsed.request_id)
    message.request_id = exchange.request_id
    exchange.ignore(parsed.ignored)


def _note_answer(exchange: Exchange, answer: chat_pb2.ChatCompletion | chat_pb2.Completion) -> None:
    exchange.model = answer.model
    exchange.usage = answer.usage
    exchange.note_ignored(answer.ignored_params)


def _leads(request: chat_pb2.CompletionRequest, answer: chat_pb2.Completion) -> list[int]:
    """Returns the length of the echoed prompt at the beginning of each choice's text, in characters."""
    if not request.echo:
        return [0] * len(answer.choices)
    leads = []
    for choice in answer.choices:
        prompt = request.prompts[choice.index // max(1, request.n)]
        if prompt.WhichOneof("prompt") == "text":
            leads.append(len(prompt.text))
        else:
            leads.append(max(0, len(choice.text) - sum(len(item.token) for item in choice.logprobs)))
    return leads
