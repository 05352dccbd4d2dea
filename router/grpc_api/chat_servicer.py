"""ChatService and ModelService over gRPC: thin methods over `router.chat.service.ChatCore`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import grpc

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.router.chat.answer import Answer
from qwenserve.router.chat.call import Call, request_id, strictness, traceparent
from qwenserve.router.chat.events import text_event
from qwenserve.router.chat.interface import Backend
from qwenserve.router.chat.service import ChatCore
from qwenserve.router.grpc_api.chat_session import ChatSessionWriter
from qwenserve.router.grpc_api.unread import Unread
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import ServiceError
from qwenserve.type.v1 import sampling_pb2

# Memory that each waiting event takes besides its own bytes.
_EVENT_BYTES = 150
_TEXT_BYTES = 60

# Of a call that generates nothing, all has been looked at when it comes here.
_ANYBODY = Call("")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ChatServicer(chat_pb2_grpc.ChatServiceServicer):
    """The public chat API. `keys` are those that the server asks for."""

    def __init__(self, core: ChatCore, keys: KeyRing, limits: GrpcConfig) -> None:
        self._core = core
        self._keys = keys
        self._limits = limits

    async def CreateChatCompletion(  # noqa: N802  # the proto's name
        self, request: chat_pb2.ChatCompletionRequest, context: Context
    ) -> chat_pb2.ChatCompletion:
        """Answers whole."""
        call = self._call(request.request_id, context)
        answer = await self._core.create_chat(request, call)
        _tell_trailers(context, answer)
        _tell_continued(context, answer.usage)
        return answer

    async def StreamChatCompletion(  # noqa: N802
        self, request: chat_pb2.ChatCompletionRequest, context: Context
    ) -> None:
        """Answers as events."""
        sink = EventQueue(self._limits)
        answer = await self._core.stream_chat(request, self._call(request.request_id, context), sink)
        await sink.write(answer, context)

    async def CreateCompletion(  # noqa: N802
        self, request: chat_pb2.CompletionRequest, context: Context
    ) -> chat_pb2.Completion:
        """Continues a text, whole."""
        answer = await self._core.create_completion(request, self._call(request.request_id, context))
        _tell_trailers(context, answer)
        _tell_continued(context, answer.usage)
        return answer

    async def StreamCompletion(  # noqa: N802
        self, request: chat_pb2.CompletionRequest, context: Context
    ) -> None:
        """Continues a text as events."""
        sink = EventQueue(self._limits)
        answer = await self._core.stream_completion(request, self._call(request.request_id, context), sink)
        await sink.write(answer, context)

    async def ChatSession(  # noqa: N802
        self, requests: AsyncIterator[chat_pb2.ChatSessionRequest], context: Context
    ) -> None:
        """Carries many chats, packed."""
        await ChatSessionWriter(self._core, self._call("", context), self._limits).serve(requests, context)

    async def Explain(  # noqa: N802
        self, request: chat_pb2.ExplainRequest, context: Context
    ) -> chat_pb2.ExplainResponse:
        """Shows what would be done."""
        given = request.chat.request_id or request.completion.request_id
        return await self._core.explain(request, self._call(given, context))

    def _call(self, given_id: str, context: Context) -> Call:
        """Returns what travels with the call. Raises InvalidRequest for metadata values that cannot be read."""
        metadata = dict(context.invocation_metadata() or ())
        remaining = context.time_remaining()
        found = request_id(given_id or text_of(metadata.get("x-request-id")))
        context.set_trailing_metadata((("x-request-id", found),))
        return Call(
            request_id=found,
            deadline=None if remaining is None else time.monotonic() + remaining,
            traceparent=traceparent(text_of(metadata.get("traceparent"))),
            key_id=self._keys.check(text_of(metadata.get("authorization"))),
            strict=strictness(text_of(metadata.get("x-strict"))),
        )


class ModelServicer(chat_pb2_grpc.ModelServiceServicer):
    """The public list of models."""

    def __init__(self, core: Backend) -> None:
        self._core = core

    async def ListModels(  # noqa: N802
        self, request: chat_pb2.ListModelsRequest, context: Context
    ) -> chat_pb2.ListModelsResponse:
        """Lists the models."""
        return await self._core.list_models(_ANYBODY)

    async def GetModel(  # noqa: N802
        self, request: chat_pb2.GetModelRequest, context: Context
    ) -> chat_pb2.Model:
        """Returns one model."""
        return await self._core.get_model(request.name, _ANYBODY)


class EventQueue:
    """A sink whose events leave on a streaming call. Bounded: a client that stops reading loses its answer."""

    def __init__(self, limits: GrpcConfig) -> None:
        self._events: list[chat_pb2.ChatEvent] = []
        # Deltas of plain text that came since the last event, of one choice and kind: they leave as one event.
        self._texts: list[str] = []
        self._kind = (0, False)
        self._wake = asyncio.Event()
        self._error: ServiceError | None = None
        self._answer: Answer | None = None
        self._unread = Unread(limits.write_buffer_bytes, limits.write_timeout_s)

    def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
        """Takes new events."""
        self._join_texts()
        if not self._events:
            self._wake.set()
        self._events += events
        size = 0
        for event in events:
            size += _EVENT_BYTES + event.ByteSize()
        error = self._unread.add(size)
        if error is not None:
            self._give_up(error)

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None]:
        """Returns what takes deltas of plain text."""
        kind = (choice_index, reasoning)

        def take(text: str) -> None:
            if kind != self._kind:
                self._join_texts()
                self._kind = kind
            if not self._texts:
                self._wake.set()
            self._texts.append(text)
            error = self._unread.add(_TEXT_BYTES + len(text))
            if error is not None:
                self._give_up(error)

        return take

    def failed(self, error: ServiceError) -> None:
        """The answer ended early."""
        self._error = error
        self._wake.set()

    async def write(self, answer: Answer, context: Context) -> None:
        """Writes the events up to the usage. Leaving early cancels the answer. Raises the answer's error.

        Not a generator: an event would pass three of them on its way, which would cost a tenth of its CPU time.
        """
        self._answer = answer
        try:
            await self._unread.run(self._write(context))
        except ServiceError as error:
            answer.fail(error)  # recorded as what it is, and not as its caller's wish
            raise
        finally:
            answer.cancel()

    async def _write(self, context: Context) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            size = self._unread.waiting
            batch: Sequence[chat_pb2.ChatEvent] = ()
            if self._events:
                self._join_texts()
                batch, self._events = self._events, []
                for event in batch:
                    if event.HasField("start"):
                        _tell_trailers(context, event.start)
                    await context.write(event)
            elif self._texts:  # as most have: neither start nor end is among them
                await context.write(self._joined())
            self._unread.written(size)
            if self._error is not None:
                raise self._error
            if batch and batch[-1].HasField("usage"):
                _tell_continued(context, batch[-1].usage)
                return

    def _join_texts(self) -> None:
        if self._texts:
            self._events.append(self._joined())

    def _joined(self) -> chat_pb2.ChatEvent:
        """Takes the texts that wait, as one event."""
        text = "".join(self._texts)
        self._texts.clear()
        return text_event(self._kind[0], text, self._kind[1])

    def _give_up(self, error: ServiceError) -> None:
        if self._answer is not None and not self._answer.ended:
            self._answer.fail(error)
            self._unread.end(error)


def _tell_trailers(
    context: Context, start: chat_pb2.StreamStart | chat_pb2.ChatCompletion | chat_pb2.Completion
) -> None:
    more = []
    if start.ignored_params:
        more.append(("x-ignored-params", ", ".join(start.ignored_params)))
    if start.cache:
        name = chat_pb2.CacheStatus.Name(start.cache)
        more.append(("x-cache", name.removeprefix("CACHE_STATUS_").lower()))
    if not isinstance(start, chat_pb2.Completion) and start.HasField("similar"):
        more += [("x-cache-match", start.similar.id), ("x-cache-score", f"{start.similar.score:.3f}")]
    if more:
        context.set_trailing_metadata((*context.trailing_metadata(), *more))


def _tell_continued(context: Context, usage: sampling_pb2.Usage) -> None:
    if usage.continued_legs:
        context.set_trailing_metadata((*context.trailing_metadata(), ("x-continued", str(usage.continued_legs))))


def text_of(value: str | bytes | None) -> str | None:
    return value if isinstance(value, str) else None
