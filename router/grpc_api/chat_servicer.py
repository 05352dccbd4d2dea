"""ChatService and ModelService over gRPC: thin methods over `router.chat.service.ChatCore`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import grpc

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.router.chat.answer import Answer
from qwenserve.router.chat.call import Call, request_id, strictness, traceparent
from qwenserve.router.chat.events import text_event
from qwenserve.router.chat.service import ChatCore
from qwenserve.router.grpc_api.chat_session import ChatSessionWriter
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.errors import ServiceError, SlowReader
from qwenserve.type.v1 import sampling_pb2

# Events kept for a client that reads slowly: at a token an event, minutes of text.
_MAX_UNREAD_EVENTS = 16_384

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ChatServicer(chat_pb2_grpc.ChatServiceServicer):
    """The public chat API. `keys` are those that the server asks for."""

    def __init__(self, core: ChatCore, keys: KeyRing) -> None:
        self._core = core
        self._keys = keys

    async def CreateChatCompletion(  # noqa: N802  # the proto's name
        self, request: chat_pb2.ChatCompletionRequest, context: Context
    ) -> chat_pb2.ChatCompletion:
        """Answers whole."""
        call = self._call(request.request_id, context)
        answer = await self._core.create_chat(request, call)
        _list_ignored(context, answer.ignored_params)
        _tell_continued(context, answer.usage)
        return answer

    async def StreamChatCompletion(  # noqa: N802
        self, request: chat_pb2.ChatCompletionRequest, context: Context
    ) -> None:
        """Answers as events."""
        sink = EventQueue()
        answer = await self._core.stream_chat(request, self._call(request.request_id, context), sink)
        await sink.write(answer, context)

    async def CreateCompletion(  # noqa: N802
        self, request: chat_pb2.CompletionRequest, context: Context
    ) -> chat_pb2.Completion:
        """Continues a text, whole."""
        answer = await self._core.create_completion(request, self._call(request.request_id, context))
        _list_ignored(context, answer.ignored_params)
        _tell_continued(context, answer.usage)
        return answer

    async def StreamCompletion(  # noqa: N802
        self, request: chat_pb2.CompletionRequest, context: Context
    ) -> None:
        """Continues a text as events."""
        sink = EventQueue()
        answer = await self._core.stream_completion(request, self._call(request.request_id, context), sink)
        await sink.write(answer, context)

    async def ChatSession(  # noqa: N802
        self, requests: AsyncIterator[chat_pb2.ChatSessionRequest], context: Context
    ) -> AsyncIterator[chat_pb2.ChatSessionResponse]:
        """Carries many chats, packed."""
        writer = ChatSessionWriter(self._core, self._call("", context))
        async with contextlib.aclosing(writer.serve(requests)) as responses:
            async for response in responses:
                yield response

    async def Explain(  # noqa: N802
        self, request: chat_pb2.ExplainRequest, context: Context
    ) -> chat_pb2.ExplainResponse:
        """Shows what would be done."""
        given = request.chat.request_id or request.completion.request_id
        return await self._core.explain(request, self._call(given, context))

    def _call(self, given_id: str, context: Context) -> Call:
        """Returns what travels with the call. Raises InvalidRequest for metadata that says nothing that we know."""
        metadata = dict(context.invocation_metadata() or ())
        remaining = context.time_remaining()
        found = request_id(given_id or _text(metadata.get("x-request-id")))
        context.set_trailing_metadata((("x-request-id", found),))
        return Call(
            request_id=found,
            deadline=None if remaining is None else time.monotonic() + remaining,
            traceparent=traceparent(_text(metadata.get("traceparent"))),
            key_id=self._keys.check(_text(metadata.get("authorization"))),
            strict=strictness(_text(metadata.get("x-strict"))),
        )


class ModelServicer(chat_pb2_grpc.ModelServiceServicer):
    """The public list of models."""

    def __init__(self, core: ChatCore) -> None:
        self._core = core

    async def ListModels(  # noqa: N802
        self, request: chat_pb2.ListModelsRequest, context: Context
    ) -> chat_pb2.ListModelsResponse:
        """Lists the models."""
        return self._core.list_models()

    async def GetModel(  # noqa: N802
        self, request: chat_pb2.GetModelRequest, context: Context
    ) -> chat_pb2.Model:
        """Returns one model."""
        return self._core.get_model(request.name)


class EventQueue:
    """A sink whose events leave on a streaming call. Bounded: a client that stops reading loses its answer."""

    def __init__(self) -> None:
        self._events: list[chat_pb2.ChatEvent] = []
        self._wake = asyncio.Event()
        self._error: ServiceError | None = None
        self._answer: Answer | None = None

    def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
        """Takes new events."""
        self._events += events
        self._wake.set()
        if len(self._events) > _MAX_UNREAD_EVENTS and self._answer is not None:
            self._answer.fail(SlowReader(f"{len(self._events)} events were not read; read faster"))

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None]:
        """Returns what takes deltas of plain text."""
        return lambda text: self.events((text_event(choice_index, text, reasoning),))

    def failed(self, error: ServiceError) -> None:
        """The answer ended early."""
        self._error = error
        self._wake.set()

    async def write(self, answer: Answer, context: Context) -> None:
        """Writes the events up to the usage. Leaving early cancels the answer. Raises the answer's error.

        Not a generator: an event would pass three of them on its way, which costs a tenth of its CPU time.
        """
        self._answer = answer
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch, self._events = self._events, []
                for event in batch:
                    if event.HasField("start"):
                        _list_ignored(context, event.start.ignored_params)
                    await context.write(event)
                if self._error is not None:
                    raise self._error
                if batch and batch[-1].HasField("usage"):
                    _tell_continued(context, batch[-1].usage)
                    return
        finally:
            answer.cancel()


def _list_ignored(context: Context, ignored: Sequence[str]) -> None:
    if ignored:
        context.set_trailing_metadata((*context.trailing_metadata(), ("x-ignored-params", ", ".join(ignored))))


def _tell_continued(context: Context, usage: sampling_pb2.Usage) -> None:
    if usage.continued_legs:
        context.set_trailing_metadata((*context.trailing_metadata(), ("x-continued", str(usage.continued_legs))))


def _text(value: str | bytes | None) -> str | None:
    return value if isinstance(value, str) else None
