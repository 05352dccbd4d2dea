"""Many chats on one gRPC call. Deltas of all chats that are ready together travel in one packed message.

A message per token per chat costs tens of microseconds on each side; an entry of a packed message, two or three.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence

from qwenserve.chat.v1 import chat_pb2
from router.chat.answer import Answer
from router.chat.service import ChatCore
from runtime.call import Call, request_id
from runtime.errors import InternalError, InvalidRequest, ServiceError, SlowReader
from runtime.lifecycle import TaskOwner
from runtime.logs import EventLog

_log = EventLog("chat_session")

# Entries kept for a client that reads slowly, over all of its chats.
_MAX_UNREAD = 262_144


class ChatSessionWriter:
    """One client's session: its chats, and the packed message that is being filled."""

    def __init__(self, core: ChatCore, call: Call) -> None:
        self._core = core
        self._call = call
        self._tasks = TaskOwner()
        self._chats: dict[int, _Chat] = {}
        self._wake = asyncio.Event()
        self._ended = False
        self._error: ServiceError | None = None
        self._new_message()

    async def serve(
        self, requests: AsyncIterator[chat_pb2.ChatSessionRequest]
    ) -> AsyncIterator[chat_pb2.ChatSessionResponse]:
        """Yields packed messages until the client has closed its side and every chat has ended."""
        self._tasks.start(self._read(requests), name="chat-session-reader")
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._handles or self._events:
                    yield self._take_message()
                if self._error is not None:
                    raise self._error
                if self._ended and not self._chats and not self._handles and not self._events:
                    return
        finally:
            await self._tasks.close()
            for chat in list(self._chats.values()):
                chat.cancel()

    def delta(self, handle: int, choice: int, text: str, *, reasoning: bool) -> None:
        """Adds one text delta to the message being filled."""
        if reasoning:
            self._reasoning.append(len(self._texts))
        self._handles.append(handle)
        self._choices.append(choice)
        self._texts.append(text)
        self._wake.set()

    def holds_events(self, handle: int) -> bool:
        """Whether a typed event of that chat waits in the message being filled."""
        return handle in self._typed

    def event(self, handle: int, event: chat_pb2.ChatEvent) -> None:
        """Adds a typed event."""
        self._typed.add(handle)
        self._events.append(chat_pb2.ChatSessionEvent(handle=handle, event=event))
        self._wake.set()
        if len(self._handles) + len(self._events) > _MAX_UNREAD:
            self._error = SlowReader("the session's client does not read; its chats were cancelled")

    def ended(self, handle: int, error: ServiceError | None) -> None:
        """Forgets a chat, and reports its error."""
        self._chats.pop(handle, None)
        if error is not None:
            self._report(handle, error)
        self._wake.set()

    def _report(self, handle: int, error: ServiceError) -> None:
        self._events.append(
            chat_pb2.ChatSessionEvent(
                handle=handle,
                error_reason=error.reason,
                error_message=error.message,
                error_code=error.status.value[0],
            )
        )
        self._wake.set()

    async def _read(self, requests: AsyncIterator[chat_pb2.ChatSessionRequest]) -> None:
        async for request in requests:
            for submit in request.submits:
                self._begin(submit)
            for handle in request.cancels:
                chat = self._chats.pop(handle, None)
                if chat is not None:
                    chat.cancel()
        self._ended = True
        self._wake.set()

    def _begin(self, submit: chat_pb2.ChatSubmit) -> None:
        if submit.handle < 1 or submit.handle in self._chats:
            error = InvalidRequest(f"handle {submit.handle} must be 1 or more and not in use", param="submits.handle")
            self._report(submit.handle, error)
            return
        chat = self._chats[submit.handle] = _Chat(self, submit.handle)
        call = dataclasses.replace(self._call, request_id=request_id(submit.request.request_id))
        self._tasks.start(chat.begin(self._core, submit.request, call), name=f"chat {call.request_id}")

    def _new_message(self) -> None:
        self._handles: list[int] = []
        self._choices: list[int] = []
        self._texts: list[str] = []
        self._reasoning: list[int] = []
        self._events: list[chat_pb2.ChatSessionEvent] = []
        self._typed: set[int] = set()

    def _take_message(self) -> chat_pb2.ChatSessionResponse:
        message = chat_pb2.ChatSessionResponse(
            handles=self._handles,
            choice_indexes=self._choices if any(self._choices) else (),
            texts=self._texts,
            reasoning_positions=self._reasoning,
            events=self._events,
        )
        self._new_message()
        return message


class _Chat:
    """The sink of one chat of a session."""

    __slots__ = ("_answer", "_cancelled", "_handle", "_writer")

    def __init__(self, writer: ChatSessionWriter, handle: int) -> None:
        self._writer = writer
        self._handle = handle
        self._answer: Answer | None = None
        self._cancelled = False

    async def begin(self, core: ChatCore, request: chat_pb2.ChatCompletionRequest, call: Call) -> None:
        """Starts the chat; its failure is an event of the session."""
        try:
            self._answer = await core.stream_chat(request, call, self)
            if self._cancelled:
                self._answer.cancel()
        except ServiceError as error:
            self._writer.ended(self._handle, error)
        except Exception as defect:
            _log.error("chat_failed", request_id=call.request_id, exc_info=defect)
            self._writer.ended(self._handle, InternalError("internal error; the router's log has the details"))

    def cancel(self) -> None:
        """Stops the engine's work, even if it has not begun yet."""
        self._cancelled = True
        if self._answer is not None:
            self._answer.cancel()

    def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
        """Packs plain text; everything else, and text that has tokens attached, goes as a typed event."""
        writer = self._writer
        for event in events:
            kind = event.WhichOneof("event")
            plain = not event.logprobs and not event.token_ids
            # Typed events come after the packed deltas of their message: once one is waiting, text has to queue
            # behind it.
            if plain and kind == "content_delta" and not writer.holds_events(self._handle):
                writer.delta(self._handle, event.choice_index, event.content_delta, reasoning=False)
            elif plain and kind == "reasoning_delta" and not writer.holds_events(self._handle):
                writer.delta(self._handle, event.choice_index, event.reasoning_delta, reasoning=True)
            else:
                writer.event(self._handle, event)
            if kind == "usage":
                writer.ended(self._handle, None)

    def failed(self, error: ServiceError) -> None:
        """Reports the chat's failure."""
        self._writer.ended(self._handle, error)
