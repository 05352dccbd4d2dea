"""One `ChatSession` call to one router for one key: every chat of that key travels on it, packed both ways.

`submit` notes what to send; one writer sends whatever was noted since its last write, and one reader hands every delta
and event of a message to the chat that it belongs to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.router.chat.events import text_event
from qwenserve.router.chat.interface import EventSink
from qwenserve.runtime.errors import Draining, InternalError, RouterLost, ServiceError
from qwenserve.runtime.grpc_setup import from_rich_status, from_rpc_error, run_until_one_ends
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.secret import Secret

_log = EventLog("shim")

# About what a message holds, in bytes; a chat that is larger has one of its own.
_MESSAGE_BYTES = 1 << 20
_MAX_UINT32 = 0xFFFFFFFF
# Where a status has its details in a call's trailers: what routers of ours send with every error.
_DETAILS = "grpc-status-details-bin"


class RemoteAnswer:
    """One answer of a router, on its way to its sink; a `router.chat.interface.RunningAnswer`."""

    __slots__ = ("_beginning", "_session", "_sink", "_writers", "handle")

    def __init__(self, session: RouterSession, handle: int, sink: EventSink) -> None:
        self._session = session
        self._sink = sink
        self._beginning: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # What takes plain text, by choice and kind; see `EventSink.text_writer`.
        self._writers: dict[int, Callable[[str], None]] = {}
        self.handle = handle

    async def begun(self) -> None:
        """Returns once the first event has come. Raises ServiceError where the answer fails before."""
        await self._beginning

    def cancel(self) -> None:
        """Stops the router's work for it; no further calls to the sink. Safe to call at any time."""
        self._session.cancel(self)

    def text(self, choice_index: int, reasoning: bool, text: str) -> None:
        """Takes one delta of plain text."""
        kind = choice_index * 2 + reasoning
        write = self._writers.get(kind)
        if write is None:
            write = self._sink.text_writer(choice_index, reasoning)
            if write is None:
                self._sink.events((text_event(choice_index, text, reasoning),))
                return
            self._writers[kind] = write
        write(text)

    def event(self, event: chat_pb2.ChatEvent) -> None:
        """Takes any event."""
        self._sink.events((event,))
        if not self._beginning.done():
            self._beginning.set_result(None)

    def failed(self, error: ServiceError) -> None:
        """The answer has failed: whoever waits for its beginning is told, or the sink."""
        if not self._beginning.done():
            self._beginning.set_exception(error)
        elif not self._beginning.cancelled():
            self._sink.failed(error)


class RouterSession:
    """One call of one key. `on_end` hears of its end, and what ended it."""

    def __init__(
        self,
        address: str,
        stub: chat_pb2_grpc.ChatServiceStub,
        authorization: Secret,
        on_end: Callable[[RouterSession, ServiceError], None],
    ) -> None:
        self._address = address
        self._stub = stub
        self.authorization = authorization
        self._on_end = on_end
        self._chats: dict[int, RemoteAnswer] = {}
        self._next_handle = 1
        # Messages to write; the last one is being filled.
        self._outbox: list[chat_pb2.ChatSessionRequest] = []
        self._outbox_bytes = 0
        self._wake = asyncio.Event()
        self._lost: ServiceError | None = None

    @property
    def open(self) -> int:
        """Chats that have not ended."""
        return len(self._chats)

    def submit(self, submit: chat_pb2.ChatSubmit, sink: EventSink) -> RemoteAnswer:
        """Begins a chat; this session sets its `handle`."""
        handle = self._next_handle
        while handle in self._chats:  # all of 32 bits were used, and this one is still open
            handle = handle % _MAX_UINT32 + 1
        self._next_handle = handle % _MAX_UINT32 + 1
        submit.handle = handle
        answer = self._chats[handle] = RemoteAnswer(self, handle, sink)
        self._message(submit.ByteSize()).submits.append(submit)
        self._wake.set()
        return answer

    def cancel(self, answer: RemoteAnswer) -> None:
        """Ends a chat that has not ended."""
        if self._chats.get(answer.handle) is answer:
            del self._chats[answer.handle]
            self._message(0).cancels.append(answer.handle)
            self._wake.set()

    async def run(self) -> None:
        """Carries chats until the call ends, for whatever reason; those that are open fail with it."""
        error: ServiceError = RouterLost(f"the router at {self._address} ended the session", retry_after_s=1.0)
        try:
            metadata = (("authorization", self.authorization.reveal()),) if self.authorization else ()
            call = self._stub.ChatSession(metadata=metadata)
            await run_until_one_ends(call, self._read(call), self._write(call), name=f"chats {self._address}")
        except grpc.aio.AioRpcError as failure:
            error = call_error(self._address, failure)
        except asyncio.CancelledError:
            error = self._lost or Draining("the shim is shutting down; try another one", retry_after_s=1.0)
            if self._lost is None:
                raise
        finally:
            chats, self._chats = self._chats, {}
            self._on_end(self, error)
            for chat in chats.values():
                chat.failed(error)

    def why_lost(self, error: ServiceError) -> None:
        """Notes what open chats are to fail with when `run` is cancelled next."""
        self._lost = error

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            self._take(message)

    def _take(self, message: chat_pb2.ChatSessionResponse) -> None:
        chats = self._chats
        choices = message.choice_indexes
        reasoning = frozenset(message.reasoning_positions)
        for position, (handle, text) in enumerate(zip(message.handles, message.texts, strict=True)):
            chat = chats.get(handle)
            if chat is not None:
                try:
                    chat.text(choices[position] if choices else 0, position in reasoning, text)
                except Exception as defect:
                    self._failed(chat, defect)
        for entry in message.events:
            chat = chats.get(entry.handle)
            if chat is None:
                continue
            if entry.HasField("error") or entry.event.HasField("usage"):
                del chats[entry.handle]
            if entry.HasField("error"):
                chat.failed(from_rich_status(entry.error) or InternalError(entry.error.message))
                continue
            try:
                chat.event(entry.event)
            except Exception as defect:
                self._failed(chat, defect)

    def _failed(self, chat: RemoteAnswer, defect: Exception) -> None:
        """One chat's defect must not end its neighbours."""
        _log.error("chat_failed", exc_info=defect)
        self.cancel(chat)
        chat.failed(InternalError("internal error; the shim's log has the details"))

    async def _write(self, call: Any) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            messages, self._outbox = self._outbox, []
            for message in messages:
                await call.write(message)

    def _message(self, size: int) -> chat_pb2.ChatSessionRequest:
        """Returns the message being filled, or a new one where `size` more bytes would make it too long."""
        if not self._outbox or self._outbox_bytes + size > _MESSAGE_BYTES:
            self._outbox.append(chat_pb2.ChatSessionRequest())
            self._outbox_bytes = 0
        self._outbox_bytes += size
        return self._outbox[-1]


def call_error(address: str, failure: grpc.aio.AioRpcError) -> ServiceError:
    """Returns what a call to a router failed with: the router's own error, or its loss."""
    if any(key == _DETAILS for key, _ in failure.trailing_metadata() or ()):
        return from_rpc_error(failure)
    if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return from_rpc_error(failure)
    return RouterLost(f"the router at {address} was lost: {failure.details()}", retry_after_s=1.0)
