"""Qwenserve's own API: one `StreamChatCompletion` call per chat, or one packed `ChatSession` for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from qwenserve.bench.clients.endpoint import EndpointError, Generation
from qwenserve.bench.record import Record
from qwenserve.bench.samples import ChatMessage, Sample
from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.grpc_setup import from_rich_status, from_rpc_error
from qwenserve.type.v1 import sampling_pb2

_ROLES = {
    "system": message_pb2.ROLE_SYSTEM,
    "user": message_pb2.ROLE_USER,
    "assistant": message_pb2.ROLE_ASSISTANT,
    "tool": message_pb2.ROLE_TOOL,
}
_CONTENT = frozenset({"content_delta", "reasoning_delta", "tool_call_start", "tool_call_arguments"})


def chat_request(
    sample: Sample, history: Sequence[ChatMessage], generation: Generation
) -> chat_pb2.ChatCompletionRequest:
    """Returns the request of one chat. Raises EndpointError for token ids, which a chat cannot carry."""
    if sample.token_ids:
        raise EndpointError("a chat takes text; token ids need --api grpc-completion or HTTP completions")
    new = sample.messages or (ChatMessage("user", sample.text),)
    request = chat_pb2.ChatCompletionRequest(model=generation.model)
    for message in (*history, *new):
        request.conversation.messages.add(role=_ROLES[message.role], content=message.content)
    if generation.thinking is not None:
        request.conversation.enable_thinking = generation.thinking
    _set_sampling(request.sampling, sample, generation)
    return request


def completion_request(
    sample: Sample, history: Sequence[ChatMessage], generation: Generation
) -> chat_pb2.CompletionRequest:
    """Returns the request of one completion. Raises EndpointError for messages."""
    if sample.messages or history:
        raise EndpointError("a completion takes text or token ids; messages need the chat API")
    request = chat_pb2.CompletionRequest(model=generation.model)
    if sample.token_ids:
        request.prompts.add().token_ids.ids.extend(sample.token_ids)
    else:
        request.prompts.add().text = sample.text
    _set_sampling(request.sampling, sample, generation)
    return request


def _set_sampling(sampling: sampling_pb2.SamplingParams, sample: Sample, generation: Generation) -> None:
    sampling.max_tokens = sample.max_tokens
    if generation.temperature is not None:
        sampling.temperature = generation.temperature
    if generation.exact_lengths:
        sampling.ignore_eos = True


class Answer:
    """Folds one answer's events into its record."""

    __slots__ = ("_keep_text", "_record", "_texts", "ended")

    def __init__(self, record: Record, keep_text: bool) -> None:
        self._record = record
        self._keep_text = keep_text
        self._texts: list[str] = []
        self.ended = False

    def delta(self, now: float, text: str) -> None:
        """Takes a plain content delta."""
        self._record.arrived(now, 1)
        if self._keep_text:
            self._texts.append(text)

    def event(self, event: chat_pb2.ChatEvent, now: float) -> None:
        """Takes any event; `usage` ends the answer."""
        kind = event.WhichOneof("event")
        record = self._record
        if kind in _CONTENT:
            record.arrived(now, 1)
            if self._keep_text and kind == "content_delta":
                self._texts.append(event.content_delta)
        elif kind == "finish":
            record.finish_reason = sampling_pb2.FinishReason.Name(event.finish.reason)
        elif kind == "usage":
            record.prompt_tokens = event.usage.prompt_tokens
            record.completion_tokens = event.usage.completion_tokens
            record.cached_tokens = event.usage.cached_tokens
            self.ended = True

    def close(self, error: str = "") -> None:
        """The answer ended, by itself or with an error."""
        record = self._record
        record.text = "".join(self._texts)
        record.error = error or ("" if self.ended else "stream ended without usage")


class GrpcEndpoint:
    """One server-streaming call per request."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        completions: bool,
        generation: Generation,
        key: str = "",
        timeout_s: float = 600.0,
    ) -> None:
        """`channel` is closed with the endpoint."""
        self._channel = channel
        stub = chat_pb2_grpc.ChatServiceStub(self._channel)
        self._method: Callable[..., Any] = stub.StreamCompletion if completions else stub.StreamChatCompletion
        self._make: Callable[..., Any] = completion_request if completions else chat_request
        self._generation = generation
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._timeout_s = timeout_s
        name = "StreamCompletion" if completions else "StreamChatCompletion"
        self.description = f"gRPC {name}, one call per request on one channel"

    def prepare(self, sample: Sample, history: Sequence[ChatMessage] = ()) -> Any:
        """Returns the request. Raises EndpointError."""
        return self._make(sample, history, self._generation)

    async def send(self, prepared: Any, record: Record, *, keep_text: bool = False) -> None:
        """Sends one request and waits for its end."""
        answer = Answer(record, keep_text)
        record.sent = time.perf_counter()
        call = self._method(prepared, timeout=self._timeout_s, metadata=self._metadata)
        try:
            while (event := await call.read()) is not grpc.aio.EOF:
                answer.event(event, time.perf_counter())
            answer.close(await _failure(call))
        except grpc.aio.AioRpcError as error:
            answer.close(error_name(error))
        finally:
            # Leaving a call early does not cancel it.
            call.cancel()
            record.ended = time.perf_counter()

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


class SessionEndpoint:
    """All requests on one `ChatSession`. Submits of one turn of the event loop share a message."""

    def __init__(
        self, channel: grpc.aio.Channel, *, generation: Generation, key: str = "", timeout_s: float = 600.0
    ) -> None:
        """`channel` is closed with the endpoint."""
        self._channel = channel
        self._stub: Any = chat_pb2_grpc.ChatServiceStub(self._channel)
        self._generation = generation
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._timeout_s = timeout_s
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._outbox = chat_pb2.ChatSessionRequest()
        self._wake = asyncio.Event()
        self._answers: dict[int, tuple[Answer, asyncio.Future[str]]] = {}
        self._next_handle = 1
        self.messages = 0
        self.description = "gRPC ChatSession, all requests packed on one call"

    def prepare(self, sample: Sample, history: Sequence[ChatMessage] = ()) -> Any:
        """Returns the request. Raises EndpointError."""
        return chat_request(sample, history, self._generation)

    async def send(self, prepared: Any, record: Record, *, keep_text: bool = False) -> None:
        """Sends one request and waits for its end."""
        self._open()
        handle = self._next_handle
        self._next_handle = handle + 1
        answer = Answer(record, keep_text)
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers[handle] = (answer, done)
        submit = self._outbox.submits.add(handle=handle)
        submit.request.CopyFrom(prepared)
        record.sent = time.perf_counter()
        self._wake.set()
        try:
            answer.close(await within(self._timeout_s, done))
        except asyncio.TimeoutError:
            self._outbox.cancels.append(handle)
            self._wake.set()
            answer.close("timeout")
        finally:
            self._answers.pop(handle, None)
            record.ended = time.perf_counter()

    async def close(self) -> None:
        """Ends the session and the channel."""
        tasks = [task for task in (self._reader, self._writer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._call is not None:
            self._call.cancel()
        await self._channel.close()

    def _open(self) -> None:
        if self._reader is not None and not self._reader.done():
            return
        if self._writer is not None:
            self._writer.cancel()
        loop = asyncio.get_running_loop()
        self._call = self._stub.ChatSession(metadata=self._metadata)
        self._reader = loop.create_task(self._read(self._call), name="bench-session-reader")
        self._writer = loop.create_task(self._write(self._call), name="bench-session-writer")

    async def _write(self, call: Any) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            message, self._outbox = self._outbox, chat_pb2.ChatSessionRequest()
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the reader meets the same end, and tells everybody

    async def _read(self, call: Any) -> None:
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                self._take(message, time.perf_counter())
            problem = await _failure(call) or "session ended"
        except grpc.aio.AioRpcError as error:
            problem = error_name(error)
        for _, done in self._answers.values():
            _settle(done, problem)

    def _take(self, message: chat_pb2.ChatSessionResponse, now: float) -> None:
        self.messages += 1
        answers = self._answers
        for handle, text in zip(message.handles, message.texts, strict=True):
            if found := answers.get(handle):
                found[0].delta(now, text)
        for item in message.events:
            found = answers.get(item.handle)
            if found is None:
                continue
            answer, done = found
            if item.HasField("error"):
                meant = from_rich_status(item.error)
                _settle(done, meant.reason if meant is not None else item.error.message)
                continue
            answer.event(item.event, now)
            if answer.ended:
                _settle(done, "")


def _settle(done: asyncio.Future[str], problem: str) -> None:
    if not done.done():
        done.set_result(problem)


async def _failure(call: Any) -> str:
    code = await call.code()
    return "" if code is grpc.StatusCode.OK else f"{code.name} {await call.details()}"[:80]


def error_name(error: grpc.aio.AioRpcError) -> str:
    """Returns status and reason of a failed call: the same text for like failures."""
    return f"{error.code().name} {from_rpc_error(error).reason}"
