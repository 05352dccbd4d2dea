"""Small servers with known behaviour for the load client: OpenAI HTTP over aiohttp, and Qwenserve gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
from aiohttp import web

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.runtime.errors import QueueFull
from qwenserve.runtime.grpc_setup import rich_status
from qwenserve.type.v1 import sampling_pb2


class Behaviour(NamedTuple):
    """How the server answers. Times in seconds."""

    first_s: float = 0.0
    gap_s: float = 0.0
    # Share of the asked length that is generated.
    length_share: float = 1.0
    tokens_per_event: int = 1
    cached_tokens: int | None = 0
    # Every n-th request (1, 1 + n, …) fails with this status; 0: none.
    fail_every: int = 0
    fail_status: int = 429
    fail_in_stream: bool = False
    has_tokenize: bool = True


class OpenAIServer:
    """Counts what it was asked; answers as `behaviour` says."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.url = ""
        self.most_at_once = 0
        self._running = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[OpenAIServer]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._generate)
        app.router.add_post("/v1/completions", self._generate)
        app.router.add_get("/v1/models", self._models)
        if self.behaviour.has_tokenize:
            app.router.add_post("/tokenize", self._tokenize)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "served"}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "messages" in body:
            words = [word for message in body["messages"] for word in ["<", *message["content"].split(), ">"]]
        else:
            words = body["prompt"].split()
        tokens = [sum(word.encode()) * 31 + len(word) for word in words]
        return web.json_response({"count": len(tokens), "max_model_len": 4096, "tokens": tokens})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.keys.append(request.headers.get("Authorization", ""))
        number, behaviour = len(self.bodies), self.behaviour
        fails = behaviour.fail_every and number % behaviour.fail_every == 1 % behaviour.fail_every
        if fails and not behaviour.fail_in_stream:
            error = {"error": {"message": f"request {number}", "type": "rate_limit_error", "code": "busy"}}
            return web.json_response(error, status=behaviour.fail_status)
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            return await self._answer(request, body, bool(fails))
        finally:
            self._running -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any], fails: bool) -> web.StreamResponse:
        behaviour = self.behaviour
        count = max(1, round(body["max_tokens"] * behaviour.length_share))
        chat = request.path.endswith("chat/completions")
        usage = self._usage(body, count)
        if not body["stream"]:
            await asyncio.sleep(behaviour.first_s + behaviour.gap_s * (count - 1))
            choice = {"index": 0, "message": {"role": "assistant", "content": "w " * count}, "finish_reason": "length"}
            return web.json_response({"choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if chat:
            await response.write(event({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}))
        await asyncio.sleep(behaviour.first_s)
        for start in range(0, count, behaviour.tokens_per_event):
            if start:
                await asyncio.sleep(behaviour.gap_s)
            text = "w " * min(behaviour.tokens_per_event, count - start)
            part = {"delta": {"content": text}} if chat else {"text": text}
            await response.write(event({"choices": [{"index": 0, **part}]}))
            if fails:
                await response.write(event({"error": {"message": "lost", "code": "WORKER_LOST"}}))
                return response
        end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        await response.write(event({"choices": [{"index": 0, **end, "finish_reason": "length"}]}))
        await response.write(event({"choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _usage(self, body: dict[str, Any], count: int) -> dict[str, Any]:
        if "messages" in body:
            prompt = sum(2 + len(message["content"].split()) for message in body["messages"])
        else:
            prompt = len(body["prompt"]) if isinstance(body["prompt"], list) else len(body["prompt"].split())
        usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": count}
        if self.behaviour.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.behaviour.cached_tokens}
        return usage


def event(body: Any) -> bytes:
    """Returns one server-sent event."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"


class ChatServer(chat_pb2_grpc.ChatServiceServicer):
    """`StreamChatCompletion`, `StreamCompletion` and `ChatSession`; fails chats whose text contains FAIL."""

    def __init__(self) -> None:
        self.address = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[ChatServer]:
        server = grpc.aio.server()
        chat_pb2_grpc.add_ChatServiceServicer_to_server(self, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    async def StreamChatCompletion(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        if "FAIL" in request.conversation.messages[-1].content:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        for one in answer(request.sampling.max_tokens, len(request.conversation.messages)):
            yield one

    async def StreamCompletion(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        for one in answer(request.sampling.max_tokens, len(request.prompts[0].token_ids.ids)):
            yield one

    async def ChatSession(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for message in requests:
            for submit in message.submits:
                yield packed(submit)


def answer(count: int, prompt_tokens: int) -> list[chat_pb2.ChatEvent]:
    """Returns the events of one answer: thought first, then content."""
    events = [chat_pb2.ChatEvent(start=chat_pb2.StreamStart(id="1"))]
    events += [chat_pb2.ChatEvent(reasoning_delta="r")] + [chat_pb2.ChatEvent(content_delta="w")] * (count - 1)
    events.append(chat_pb2.ChatEvent(finish=chat_pb2.ChoiceFinish(reason=sampling_pb2.FINISH_REASON_LENGTH)))
    usage = sampling_pb2.Usage(prompt_tokens=prompt_tokens, completion_tokens=count, cached_tokens=1)
    return [*events, chat_pb2.ChatEvent(usage=usage)]


def packed(submit: Any) -> chat_pb2.ChatSessionResponse:
    """Returns a whole answer as one session message."""
    response = chat_pb2.ChatSessionResponse()
    if "FAIL" in submit.request.conversation.messages[-1].content:
        response.events.add(handle=submit.handle, error=rich_status(QueueFull("full")))
        return response
    count = submit.request.sampling.max_tokens
    response.handles.extend([submit.handle] * count)
    response.texts.extend(["w"] * count)
    for one in answer(count, 1)[-2:]:
        response.events.add(handle=submit.handle, event=one)
    return response
