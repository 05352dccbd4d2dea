"""Many chats on one gRPC call. Deltas of all chats that are ready together travel in one packed message.

A message per token per chat costs tens of microseconds on each side; an entry of a packed message, two or three.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.answer import Answer
from qwenserve.router.chat.call import Call, request_id, traceparent
from qwenserve.router.chat.events import text_event
from qwenserve.router.chat.service import ChatCore
from qwenserve.router.grpc_api.unread import Unread
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import InternalError, InvalidRequest, QueueFull, ServiceError
from qwenserve.runtime.grpc_setup import rich_status
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.runtime.logs import EventLog

_log = EventLog("chat_session")

# The memory of what goes in one message, at most; the message is smaller. Clients take 4 MB unless told otherwise.
_MESSAGE_BYTES = 1 << 20
# What a delta takes besides its text.
_DELTA_MEMORY = 100
# A session has many chats, so it may leave unread as much as this many calls.
_CALLS = 8
# Chats of one session that have not ended.
_MAX_CHATS = 4096


class _Page:
    """The parts of one message."""

    __slots__ = ("choices", "events", "handles", "memory", "reasoning", "texts", "typed")

    def __init__(self) -> None:
        self.handles: list[int] = []
        self.choices: list[int] = []
        self.texts: list[str] = []
        self.reasoning: list[int] = []
        self.events: list[chat_pb2.ChatSessionEvent] = []
        # Chats that have an event among `events`.
        self.typed: set[int] = set()
        # What it takes here, roughly; as a message it is smaller.
        self.memory = 0

    def message(self) -> chat_pb2.ChatSessionResponse:
        return chat_pb2.ChatSessionResponse(
            handles=self.handles,
            choice_indexes=self.choices if any(self.choices) else (),
            texts=self.texts,
            reasoning_positions=self.reasoning,
            events=self.events,
        )


class ChatSessionWriter:
    """One client's session: its chats, and the packed message that is being filled."""

    def __init__(self, core: ChatCore, call: Call, limits: GrpcConfig) -> None:
        self._core = core
        self._call = call
        self._tasks = TaskOwner()
        self._chats: dict[int, _Chat] = {}
        self._wake = asyncio.Event()
        self._ended = False
        self._error: ServiceError | None = None
        self._page = _Page()
        self._full: deque[_Page] = deque()
        self._page_memory = min(_MESSAGE_BYTES, limits.write_buffer_bytes)
        self._unread = Unread(_CALLS * limits.write_buffer_bytes, limits.write_timeout_s)

    async def serve(
        self, requests: AsyncIterator[chat_pb2.ChatSessionRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Writes packed messages until the client has closed its side and every chat has ended. Raises SlowReader for
        one that does not read.
        """
        self._tasks.start(self._read(requests), name="chat-session-reader")
        try:
            await self._unread.run(self._write(context))
        except ServiceError as error:
            self._fail_all(error)
            raise
        finally:
            # All are cancelled before any is awaited: a wait may take long, or be cancelled itself.
            self._ended = True
            self._cancel_all()
            await self._tasks.close()

    async def _write(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._full or self._page.memory:
                if not self._full:
                    self._turn_page()
                if not self._full:
                    break  # it was more than may be left unread, and is dropped
                page = self._full.popleft()
                await context.write(page.message())
                self._unread.written(page.memory)
            if self._error is not None:
                raise self._error
            if self._ended and not self._chats:
                return

    def text(self, handle: int, choice: int, reasoning: bool, text: str) -> None:
        """Adds one delta of plain text to the message being filled. Typed events come after the packed deltas of their
        message: once one of this chat is waiting, its text has to queue behind it.
        """
        page = self._page
        if handle in page.typed:
            self.event(handle, text_event(choice, text, reasoning))
            return
        if reasoning:
            page.reasoning.append(len(page.texts))
        page.handles.append(handle)
        page.choices.append(choice)
        page.texts.append(text)
        self._added(_DELTA_MEMORY + len(text))

    def event(self, handle: int, event: chat_pb2.ChatEvent) -> None:
        """Adds a typed event."""
        self._append(chat_pb2.ChatSessionEvent(handle=handle, event=event))

    def ended(self, chat: _Chat, error: ServiceError | None) -> None:
        """Forgets a chat, and reports its error. A chat that was cancelled has been forgotten already."""
        if self._chats.get(chat.handle) is chat:
            del self._chats[chat.handle]
            if error is not None:
                self._report(chat.handle, error)
        self._wake.set()

    def _report(self, handle: int, error: ServiceError) -> None:
        self._append(
            chat_pb2.ChatSessionEvent(
                handle=handle,
                error=rich_status(error),
            )
        )

    def _append(self, event: chat_pb2.ChatSessionEvent) -> None:
        self._page.typed.add(event.handle)
        self._page.events.append(event)
        self._added(_DELTA_MEMORY + event.ByteSize())

    def _added(self, memory: int) -> None:
        page = self._page
        if not page.memory:  # else the writer has been woken, or comes back to this page by itself
            self._wake.set()
        page.memory += memory
        if page.memory >= self._page_memory:
            self._turn_page()

    def _turn_page(self) -> None:
        """Lets the page wait to be written, and begins another one. What waits is counted by whole pages."""
        page, self._page = self._page, _Page()
        self._full.append(page)
        error = self._unread.add(page.memory)
        if error is not None and self._error is None:
            self._error = error
            self._full.clear()
            self._page = _Page()
            self._fail_all(error)
            self._unread.end(error)

    def _cancel_all(self) -> None:
        chats, self._chats = self._chats, {}
        for chat in chats.values():
            chat.cancel()

    def _fail_all(self, error: ServiceError) -> None:
        chats, self._chats = self._chats, {}
        for chat in chats.values():
            chat.fail(error)

    async def _read(self, requests: AsyncIterator[chat_pb2.ChatSessionRequest]) -> None:
        try:
            async for request in requests:
                for submit in request.submits:
                    self._begin(submit)
                for handle in request.cancels:
                    chat = self._chats.pop(handle, None)
                    if chat is not None:
                        chat.cancel()
        except DecodeError as error:
            _log.warning("undecodable_request", request_id=self._call.request_id, reason=str(error))
            self._error = InvalidRequest(f"the message's bytes are no ChatSessionRequest: {error}")
        except Exception as defect:
            _log.error("chat_session_failed", request_id=self._call.request_id, exc_info=defect)
            self._error = InternalError("internal error; the router's log has the details")
        self._ended = True
        self._wake.set()

    def _begin(self, submit: chat_pb2.ChatSubmit) -> None:
        if self._error is not None or self._ended:
            return
        if submit.handle < 1 or submit.handle in self._chats:
            error = InvalidRequest(f"handle {submit.handle} must be 1 or more and not in use", param="submits.handle")
            self._report(submit.handle, error)
            return
        if len(self._chats) >= _MAX_CHATS:
            self._report(submit.handle, QueueFull(f"{_MAX_CHATS} chats of this session are open; let some of them end"))
            return
        chat = self._chats[submit.handle] = _Chat(self, submit.handle)
        call = self._call_of(submit)
        chat.beginning = self._tasks.start(chat.begin(self._core, submit, call), name=f"chat {call.request_id}")

    def _call_of(self, submit: chat_pb2.ChatSubmit) -> Call:
        request = submit.completion if submit.HasField("completion") else submit.request
        session = self._call
        deadline = session.deadline
        if submit.timeout_ms > 0:
            until = time.monotonic() + submit.timeout_ms / 1000
            deadline = until if deadline is None else min(until, deadline)
        own_trace = submit.traceparent
        return Call(
            request_id(request.request_id),
            deadline,
            traceparent(own_trace) if own_trace else session.traceparent,
            session.key_id,
            submit.strict if submit.HasField("strict") else session.strict,
            authorization=session.authorization,
        )


class _Chat:
    """The sink of one chat of a session."""

    __slots__ = ("_answer", "_cancelled", "_writer", "beginning", "handle")

    def __init__(self, writer: ChatSessionWriter, handle: int) -> None:
        self._writer = writer
        self.handle = handle
        self._answer: Answer | None = None
        self._cancelled = False
        # The task of `begin`.
        self.beginning: asyncio.Task[None] | None = None

    async def begin(self, core: ChatCore, submit: chat_pb2.ChatSubmit, call: Call) -> None:
        """Starts the chat; its failure is an event of the session."""
        try:
            if not submit.HasField("completion"):
                self._answer = await core.stream_chat(submit.request, call, self)
            elif submit.HasField("request"):
                raise InvalidRequest("submits: set request or completion, not both", param="submits.completion")
            else:
                self._answer = await core.stream_completion(submit.completion, call, self)
            if self._cancelled:
                self._answer.cancel()  # the chat had begun in the same turn in which its task was cancelled
        except ServiceError as error:
            self._writer.ended(self, error)
        except Exception as defect:
            _log.error("chat_failed", request_id=call.request_id, exc_info=defect)
            self._writer.ended(self, InternalError("internal error; the router's log has the details"))

    def cancel(self) -> None:
        """Stops the engine's work, even if it has not begun yet."""
        self._cancelled = True
        if self._answer is not None:
            self._answer.cancel()
        elif self.beginning is not None:
            self.beginning.cancel()

    def fail(self, error: ServiceError) -> None:
        """Stops the engine's work because of an error, which the answer is recorded with."""
        if self._answer is not None:
            self._answer.fail(error)
        self.cancel()

    def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
        """Packs plain text; everything else, and text that has tokens attached, goes as a typed event."""
        for event in events:
            kind = event.WhichOneof("event")
            delta = kind == "content_delta" or kind == "reasoning_delta"
            if delta and not event.logprobs and not event.token_ids:
                reasoning = kind == "reasoning_delta"
                text = event.reasoning_delta if reasoning else event.content_delta
                self._writer.text(self.handle, event.choice_index, reasoning, text)
            else:
                self._writer.event(self.handle, event)
            if kind == "usage":
                self._writer.ended(self, None)

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None]:
        """Returns what packs deltas of plain text."""
        return partial(self._writer.text, self.handle, choice_index, reasoning)

    def failed(self, error: ServiceError) -> None:
        """Reports the chat's failure."""
        self._writer.ended(self, error)
