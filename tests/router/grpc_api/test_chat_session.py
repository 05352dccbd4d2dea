"""A client's session under a test's hand: a core that answers as told, a client that reads as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.call import Call
from qwenserve.router.grpc_api.chat_servicer import EventQueue
from qwenserve.router.grpc_api.chat_session import ChatSessionWriter
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import NotFound, ServiceError, SlowReader
from qwenserve.runtime.grpc_setup import from_rich_status
from qwenserve.type.v1 import sampling_pb2
from tests.system.stack import until

LIMITS = GrpcConfig(write_buffer_bytes=1 << 18)


class Told:
    """An answer that only notes what becomes of it."""

    def __init__(self, sink: Any) -> None:
        self.sink = sink
        self.cancelled = False
        self.ended = False

    def cancel(self) -> None:
        self.cancelled = True

    def fail(self, error: ServiceError) -> None:
        self.ended = True
        self.sink.failed(error)


class Core:
    """Begins answers when `gate` is open; `refuses` names request ids that fail instead."""

    def __init__(self, *refuses: str) -> None:
        self.answers: list[Told] = []
        self.gate = asyncio.Event()
        self.gate.set()
        # Beginnings that go on although they are cancelled.
        self.holds_on = False
        self._refuses = refuses
        self.begun = 0
        self.calls: list[Call] = []

    async def stream_completion(self, request: chat_pb2.CompletionRequest, call: Call, sink: Any) -> Told:
        assert isinstance(request, chat_pb2.CompletionRequest)
        return await self.stream_chat(chat_pb2.ChatCompletionRequest(), call, sink)

    async def stream_chat(self, request: chat_pb2.ChatCompletionRequest, call: Call, sink: Any) -> Told:
        self.begun += 1
        self.calls.append(call)
        while True:
            try:
                await self.gate.wait()
                break
            except asyncio.CancelledError:
                if not self.holds_on:
                    raise
        if call.request_id in self._refuses:
            raise NotFound("no")
        answer = Told(sink)
        self.answers.append(answer)
        return answer


class Responses:
    """A session's call: its client takes a message when the test asks for one, and one lies ready besides."""

    def __init__(self, writer: ChatSessionWriter, requests: AsyncIterator[chat_pb2.ChatSessionRequest]) -> None:
        self._messages: asyncio.Queue[chat_pb2.ChatSessionResponse] = asyncio.Queue(1)
        self._task = asyncio.ensure_future(writer.serve(requests, self))

    async def write(self, message: chat_pb2.ChatSessionResponse) -> None:
        await self._messages.put(message)

    def __aiter__(self) -> Responses:
        return self

    async def __anext__(self) -> chat_pb2.ChatSessionResponse:
        message = asyncio.ensure_future(self._messages.get())
        await asyncio.wait({message, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if message.done():
            return message.result()
        message.cancel()
        self._task.result()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


class Client:
    """Sends what a test puts in; `responses` are those of the session."""

    def __init__(self, core: Core, limits: GrpcConfig = LIMITS) -> None:
        self._requests: asyncio.Queue[chat_pb2.ChatSessionRequest | None] = asyncio.Queue()
        self.responses = Responses(ChatSessionWriter(core, Call("session"), limits), self._sent())  # type: ignore[arg-type]

    async def _sent(self) -> AsyncIterator[chat_pb2.ChatSessionRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    def put(self, request: chat_pb2.ChatSessionRequest) -> None:
        self._requests.put_nowait(request)

    def send(self, *handles: int, cancels: tuple[int, ...] = (), ids: tuple[str, ...] = ()) -> None:
        named = [chat_pb2.ChatCompletionRequest(request_id=name) for name in ids or [""] * len(handles)]
        submits = [chat_pb2.ChatSubmit(handle=h, request=r) for h, r in zip(handles, named, strict=True)]
        self.put(chat_pb2.ChatSessionRequest(submits=submits, cancels=cancels))

    def close(self) -> None:
        self._requests.put_nowait(None)

    async def read(self) -> chat_pb2.ChatSessionResponse:
        return await asyncio.wait_for(self.responses.__anext__(), 5)

    def reading(self) -> asyncio.Task[chat_pb2.ChatSessionResponse]:
        return asyncio.get_running_loop().create_task(self.read())


def reason(item: chat_pb2.ChatSessionEvent) -> str:
    error = from_rich_status(item.error)
    return error.reason if error is not None else ""


def content(text: str) -> chat_pb2.ChatEvent:
    return chat_pb2.ChatEvent(content_delta=text)


def usage() -> chat_pb2.ChatEvent:
    return chat_pb2.ChatEvent(usage=sampling_pb2.Usage(completion_tokens=1))


async def test_deltas_of_many_chats_share_a_message_in_order() -> None:
    core = Core()
    client = Client(core)
    client.send(1, 2)
    first = client.reading()
    await until(lambda: len(core.answers) == 2)

    one, two = core.answers
    one.sink.events([content("a"), chat_pb2.ChatEvent(reasoning_delta="r"), content("b")])
    two.sink.events([content("c")])
    message = await first

    assert list(message.handles) == [1, 1, 1, 2]
    assert list(message.texts) == ["a", "r", "b", "c"]
    assert list(message.reasoning_positions) == [1]
    await client.responses.aclose()


async def test_text_after_a_typed_event_stays_behind_it() -> None:
    core = Core()
    client = Client(core)
    client.send(1)
    first = client.reading()
    await until(lambda: bool(core.answers))

    finish = chat_pb2.ChatEvent(choice_index=1, finish=chat_pb2.ChoiceFinish(reason=sampling_pb2.FINISH_REASON_STOP))
    core.answers[0].sink.events([content("a"), finish, content("b"), usage()])
    client.close()
    message = await first

    assert list(message.texts) == ["a"]
    assert [item.event.WhichOneof("event") for item in message.events] == ["finish", "content_delta", "usage"]
    with pytest.raises(StopAsyncIteration):
        await client.read()


async def test_a_handle_in_use_or_zero_is_refused_and_the_first_chat_goes_on() -> None:
    core = Core()
    client = Client(core)
    client.send(1, 1, 0)

    failed = (await client.read()).events

    assert [item.handle for item in failed] == [1, 0]
    assert [reason(item) for item in failed] == ["INVALID_REQUEST", "INVALID_REQUEST"]
    await until(lambda: len(core.answers) == 1)
    core.answers[0].sink.events([content("x")])
    assert list((await client.read()).texts) == ["x"]
    await client.responses.aclose()
    assert core.answers[0].cancelled


async def test_a_chat_cancelled_while_it_begins_never_begins_and_does_not_harm_its_successor() -> None:
    core = Core("refused")
    core.gate.clear()
    client = Client(core)
    client.send(1, ids=("refused",))
    reading = client.reading()
    await until(lambda: core.begun == 1)

    client.send(cancels=(1,))
    client.send(1, ids=("good",))
    await until(lambda: core.begun == 2)
    core.gate.set()
    await until(lambda: len(core.answers) == 1)
    core.answers[0].sink.events([content("good")])
    message = await reading

    assert list(message.texts) == ["good"]
    assert not message.events
    await client.responses.aclose()


async def test_a_client_that_does_not_read_loses_its_chats_at_once_and_memory_stays_bounded() -> None:
    core = Core()
    client = Client(core)
    client.send(1, 2)
    first = client.reading()
    await until(lambda: len(core.answers) == 2)
    core.answers[0].sink.events([content("begin")])
    await first

    piece = "x" * 65536
    sent = 0
    while not core.answers[0].cancelled:
        core.answers[0].sink.events([content(piece)])
        sent += 1
        assert sent < 1000

    assert [answer.ended for answer in core.answers] == [True, True]
    with pytest.raises(SlowReader):
        [message async for message in client.responses]


async def test_a_message_stays_below_what_clients_take() -> None:
    core = Core()
    client = Client(core, GrpcConfig(write_buffer_bytes=1 << 22))
    client.send(1)
    first = client.reading()
    await until(lambda: bool(core.answers))

    core.answers[0].sink.events([content("y" * 100_000) for _ in range(100)])
    sizes, texts = [], 0
    message = await first
    while True:
        sizes.append(message.ByteSize())
        texts += len(message.texts)
        if texts == 100:
            break
        message = await client.read()

    assert max(sizes) < 2 << 20
    await client.responses.aclose()


async def test_requests_that_cannot_be_read_end_the_session_with_an_error() -> None:
    async def broken() -> AsyncIterator[chat_pb2.ChatSessionRequest]:
        yield chat_pb2.ChatSessionRequest()
        raise RuntimeError("broken")

    responses = Responses(ChatSessionWriter(Core(), Call("session"), LIMITS), broken())  # type: ignore[arg-type]

    with pytest.raises(ServiceError) as caught:
        await asyncio.wait_for(responses.__anext__(), 5)
    assert caught.value.reason == "INTERNAL"


async def test_what_was_told_before_a_session_breaks_arrives_before_its_error() -> None:
    async def broken() -> AsyncIterator[chat_pb2.ChatSessionRequest]:
        yield chat_pb2.ChatSessionRequest(submits=[chat_pb2.ChatSubmit(handle=0)])
        raise RuntimeError("broken")

    responses = Responses(ChatSessionWriter(Core(), Call("session"), LIMITS), broken())  # type: ignore[arg-type]
    message = await asyncio.wait_for(responses.__anext__(), 5)

    assert [reason(item) for item in message.events] == ["INVALID_REQUEST"]
    with pytest.raises(ServiceError):
        await asyncio.wait_for(responses.__anext__(), 5)


async def test_the_end_of_a_session_cancels_what_runs_before_it_waits_for_what_begins() -> None:
    core = Core()
    client = Client(core)
    client.send(1)
    reading = client.reading()
    await until(lambda: len(core.answers) == 1)
    core.answers[0].sink.events([content("x")])
    await reading
    core.gate.clear()
    core.holds_on = True
    client.send(2)
    await until(lambda: core.begun == 2)

    leaving = asyncio.ensure_future(client.responses.aclose())

    try:
        await until(lambda: core.answers[0].cancelled)
        assert not leaving.done()
    finally:
        core.gate.set()
        await asyncio.wait_for(leaving, 5)
    # Its cancellation came too late to stop its beginning: what began is cancelled all the same.
    assert [answer.cancelled for answer in core.answers] == [True, True]


class Context:
    """As much of a call as a stream uses. After `takes` events its client reads no more."""

    def __init__(self, takes: int) -> None:
        self._takes = takes
        self.written: list[chat_pb2.ChatEvent] = []
        self.stuck = asyncio.Event()
        self.reads_on = asyncio.Event()

    async def write(self, event: chat_pb2.ChatEvent) -> None:
        self.written.append(event)
        if len(self.written) == self._takes:
            self.stuck.set()
            await self.reads_on.wait()

    def trailing_metadata(self) -> tuple[()]:
        return ()

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.metadata = metadata


@pytest.mark.parametrize("typed", [True, False])
async def test_a_stream_that_is_not_read_ends_at_its_bound_though_its_write_waits_for_ever(typed: bool) -> None:
    queue = EventQueue(LIMITS)
    answer = Told(queue)
    context = Context(takes=1)
    writing = asyncio.ensure_future(queue.write(answer, context))  # type: ignore[arg-type]
    queue.events([content("a")])
    await asyncio.wait_for(context.stuck.wait(), 5)

    add = queue.text_writer(0, False)
    pieces = 0
    while not answer.ended:
        pieces += 1
        assert pieces < 10_000
        if typed:
            queue.events([content("b" * 100)])
        else:
            add("b" * 100)

    with pytest.raises(SlowReader):
        await asyncio.wait_for(writing, 5)
    assert answer.cancelled


async def test_a_client_that_reads_nothing_for_too_long_is_left() -> None:
    queue = EventQueue(GrpcConfig(write_timeout_s=0.01))
    answer = Told(queue)
    writing = asyncio.ensure_future(queue.write(answer, Context(takes=1)))  # type: ignore[arg-type]
    queue.events([content("a")])

    with pytest.raises(SlowReader):
        await asyncio.wait_for(writing, 5)
    assert (answer.ended, answer.cancelled) == (True, True)


async def test_plain_text_that_waited_leaves_as_one_event_in_its_place() -> None:
    queue = EventQueue(LIMITS)
    answer = Told(queue)
    context = Context(takes=0)
    say, think = queue.text_writer(0, False), queue.text_writer(0, True)
    think("a")
    think("b")
    say("c")
    say("d")
    queue.events([usage()])

    await asyncio.wait_for(queue.write(answer, context), 5)  # type: ignore[arg-type]

    shown = [event.reasoning_delta or event.content_delta for event in context.written]
    assert shown == ["ab", "cd", ""]


async def test_leaving_a_stream_early_cancels_its_answer() -> None:
    queue = EventQueue(LIMITS)
    answer = Told(queue)
    context = Context(takes=2)
    writing = asyncio.ensure_future(queue.write(answer, context))  # type: ignore[arg-type]
    queue.events([chat_pb2.ChatEvent(start=chat_pb2.StreamStart(ignored_params=["x"])), content("a")])
    await asyncio.wait_for(context.stuck.wait(), 5)

    writing.cancel()

    await asyncio.wait({writing})
    assert answer.cancelled
    assert context.metadata == (("x-ignored-params", "x"),)


async def test_a_completion_and_what_belongs_to_one_chat_alone() -> None:
    """Completions travel as chats do; time limit, trace and strictness are those of the submit."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    core = Core()
    client = Client(core)
    completion = chat_pb2.CompletionRequest(request_id="text")
    submits = [
        chat_pb2.ChatSubmit(handle=1, completion=completion, timeout_ms=50_000, traceparent=trace, strict=True),
        chat_pb2.ChatSubmit(handle=2, completion=completion, request=chat_pb2.ChatCompletionRequest()),
        chat_pb2.ChatSubmit(handle=3, request=chat_pb2.ChatCompletionRequest(request_id="chat")),
    ]
    client.put(chat_pb2.ChatSessionRequest(submits=submits))
    await until(lambda: core.begun == 2)
    message = await anext(client.responses)
    (refused,) = message.events
    error = from_rich_status(refused.error)
    await client.responses.aclose()

    assert (refused.handle, getattr(error, "param", None)) == (2, "submits.completion")
    text, chat = core.calls
    assert (text.request_id, text.traceparent, text.strict) == ("text", trace, True)
    remaining = text.remaining_s()
    assert remaining is not None
    assert 0 < remaining <= 50
    assert (chat.request_id, chat.traceparent, chat.strict, chat.deadline) == ("chat", "", None, None)
