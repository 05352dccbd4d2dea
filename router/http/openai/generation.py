"""`/v1/chat/completions` and `/v1/completions`, whole and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.call import request_id
from qwenserve.router.chat.fold import Fold
from qwenserve.router.chat.interface import Backend
from qwenserve.router.http.openai.chunks import ChatChunks, ChunkPlan, CompletionChunks
from qwenserve.router.http.openai.drafts import ChatDraft, CompletionDraft, Draft
from qwenserve.router.http.openai.errors import OPENAI_ERRORS
from qwenserve.router.http.openai.fields import fields_of
from qwenserve.router.http.openai.json_answers import chat_body, completion_body
from qwenserve.router.http.openai.requests import CHAT_BODY, COMPLETION_BODY, read_chat, read_completion
from qwenserve.router.http.transport.answering import stream, until_complete
from qwenserve.router.http.transport.body import read_request
from qwenserve.router.http.transport.cache_control import apply_cache_control
from qwenserve.router.http.transport.endpoint import BodySchema, Endpoint
from qwenserve.router.http.transport.exchange import Exchange
from qwenserve.router.http.transport.field_rows import Face
from qwenserve.router.http.transport.naming import naming
from qwenserve.router.http.transport.reply import Reply
from qwenserve.runtime.config import HttpConfig

T = TypeVar("T")

# Log-probabilities that are written on the event loop in one go, about 10 ms.
_INLINE_LOGPROBS = 4096


class GenerationEndpoints:
    """The two endpoints that generate."""

    def __init__(self, backend: Backend, config: HttpConfig) -> None:
        self._backend = backend
        self._config = config

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Returns their rows of the table."""
        chat = BodySchema("ChatCompletionRequest", CHAT_BODY, fields_of(Face.CHAT))
        completion = BodySchema("CompletionRequest", COMPLETION_BODY, fields_of(Face.COMPLETION))
        return (
            Endpoint("POST", "/v1/chat/completions", "chat", self.chat, OPENAI_ERRORS, generates=True, body=chat),
            Endpoint(
                "POST", "/v1/completions", "completion", self.completion, OPENAI_ERRORS, generates=True, body=completion
            ),
        )

    async def chat(self, exchange: Exchange) -> Reply:
        """Answers a conversation."""
        draft = await read_request(exchange.request, self._config, _chat_draft)
        message = draft.request
        _note(exchange, draft)
        call = exchange.call()
        exchange.handed_over = True
        if draft.stream:
            plan = ChunkPlan(message.n or 1, 1, draft.include_usage, draft.usage_so_far, draft.shown())
            return await stream(
                exchange,
                ChatChunks(plan),
                self._config,
                lambda sink: _named(draft, self._backend.stream_chat(message, call, sink)),
            )
        fold = Fold()
        work = self._backend.stream_chat(message, call, fold)
        answer = await _named(draft, work)
        await until_complete(exchange, fold, answer)
        shown = draft.shown()
        body = await asyncio.to_thread(chat_body, fold, shown) if _is_long(fold, draft) else chat_body(fold, shown)
        return exchange.reply(body)

    async def completion(self, exchange: Exchange) -> Reply:
        """Continues texts or token ids."""
        draft = await read_request(exchange.request, self._config, _completion_draft)
        message = draft.request
        _note(exchange, draft)
        call = exchange.call()
        exchange.handed_over = True
        if draft.stream:
            prompts = len(message.prompts)
            choices = (message.n or 1) * prompts
            plan = ChunkPlan(choices, prompts, draft.include_usage, draft.usage_so_far, draft.shown())
            return await stream(
                exchange,
                CompletionChunks(plan),
                self._config,
                lambda sink: _named(draft, self._backend.stream_completion(message, call, sink)),
            )
        fold = Fold()
        answer = await _named(draft, self._backend.stream_completion(message, call, fold))
        await until_complete(exchange, fold, answer)
        write = partial(completion_body, fold, _leads(message, fold), max(1, message.n), draft.shown())
        return exchange.reply(await asyncio.to_thread(write) if _is_long(fold, draft) else write())


def _named(draft: Draft, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Returns the work, whose errors get the names of the fields that its caller sent where those are others."""
    return naming(draft.names, work) if draft.names else work


def _is_long(fold: Fold, draft: Draft) -> bool:
    """Whether a whole answer has so many log-probabilities that its body is made off the event loop."""
    if not draft.has_logprobs and draft.prompt_top is None:
        return False
    logprobs = sum(
        len(items) * (1 + len(items[-1].top_logprobs))
        for _, choice in fold.choices()
        for items in (choice.prompt_logprobs, choice.logprobs)
        if items
    )
    return logprobs > _INLINE_LOGPROBS


def _chat_draft(body: bytes) -> ChatDraft:
    return read_chat(CHAT_BODY.read(body))


def _completion_draft(body: bytes) -> CompletionDraft:
    return read_completion(COMPLETION_BODY.read(body))


def _note(exchange: Exchange, draft: Draft) -> None:
    message = draft.request
    exchange.model = message.model
    if draft.request_id and "x-request-id" not in exchange.request.headers:
        exchange.request_id = request_id(draft.request_id)
    message.request_id = exchange.request_id
    if session := exchange.request.headers.get("x-session-id"):
        message.session = session
    if (control := exchange.request.headers.get("Cache-Control")) is not None:
        apply_cache_control(control, message.cache)
    exchange.ignore(draft.ignored)


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
