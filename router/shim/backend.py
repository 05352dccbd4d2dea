"""The routers behind a shim as its faces see them: each call becomes one over gRPC, to the router with the least to do.

Whatever has not begun may be asked of another router: none of its events has been seen by anybody. What has begun ends
with the router that it was at.
"""

from __future__ import annotations

import asyncio
import math
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.call import Call
from qwenserve.router.chat.interface import EventSink
from qwenserve.router.shim.routers import Ask, RouterLink, Routers
from qwenserve.router.shim.session import RemoteAnswer, call_error
from qwenserve.runtime.counting import Count
from qwenserve.runtime.errors import Draining, NoRouter, QueueFull, RouterLost, ServiceError, Unavailable
from qwenserve.tokenizer.v1 import tokenizer_pb2

# Routers that one request is taken to, at most: it may be the request itself that ends them.
_MOST_TRIED = 5
_ASK_TIMEOUT_S = 30.0
_NO_ROUTER = "no router is ready; shim.routers names those that are asked"

Reply = TypeVar("Reply", bound=Message)


class RemoteBackend:
    """Implements `router.chat.interface.Backend` with routers. `resubmitted` counts requests taken to another one."""

    def __init__(self, routers: Routers, resubmitted: Count) -> None:
        self._routers = routers
        self._resubmitted = resubmitted
        self._draining = False
        self._beginning = 0

    async def stream_chat(self, request: chat_pb2.ChatCompletionRequest, call: Call, sink: EventSink) -> RemoteAnswer:
        """Answers a conversation."""
        return await self._begin(chat_pb2.ChatSubmit(request=request), call, sink)

    async def stream_completion(self, request: chat_pb2.CompletionRequest, call: Call, sink: EventSink) -> RemoteAnswer:
        """Continues texts or token ids."""
        submit = chat_pb2.ChatSubmit(completion=request)
        submit.completion.request_id = call.request_id
        return await self._begin(submit, call, sink)

    async def explain(self, request: chat_pb2.ExplainRequest, call: Call) -> chat_pb2.ExplainResponse:
        """What would be done with a request."""
        return await self._ask(lambda link: link.chats.Explain, request, call, chat_pb2.ExplainResponse)

    async def tokenize(self, request: tokenizer_pb2.TokenizeRequest, call: Call) -> tokenizer_pb2.TokenizeResponse:
        """Texts to ids."""
        return await self._ask(lambda link: link.tokenizer.Tokenize, request, call, tokenizer_pb2.TokenizeResponse)

    async def tokenize_chat(
        self, request: tokenizer_pb2.TokenizeChatRequest, call: Call
    ) -> tokenizer_pb2.TokenizeChatResponse:
        """Conversations to rendered prompts and ids."""
        kind = tokenizer_pb2.TokenizeChatResponse
        return await self._ask(lambda link: link.tokenizer.TokenizeChat, request, call, kind)

    async def detokenize(
        self, request: tokenizer_pb2.DetokenizeRequest, call: Call
    ) -> tokenizer_pb2.DetokenizeResponse:
        """Ids to texts."""
        return await self._ask(lambda link: link.tokenizer.Detokenize, request, call, tokenizer_pb2.DetokenizeResponse)

    async def tokenizer_info(
        self, request: tokenizer_pb2.GetTokenizerInfoRequest, call: Call
    ) -> tokenizer_pb2.TokenizerInfo:
        """What tokenizer and chat template are."""
        return await self._ask(lambda link: link.tokenizer.GetTokenizerInfo, request, call, tokenizer_pb2.TokenizerInfo)

    async def list_models(self, call: Call) -> chat_pb2.ListModelsResponse:
        """The models of a router."""
        request = chat_pb2.ListModelsRequest()
        return await self._ask(lambda link: link.models.ListModels, request, call, chat_pb2.ListModelsResponse)

    async def get_model(self, name: str, call: Call) -> chat_pb2.Model:
        """One model, by name. Raises ModelNotFound."""
        request = chat_pb2.GetModelRequest(name=name)
        return await self._ask(lambda link: link.models.GetModel, request, call, chat_pb2.Model)

    def ready(self) -> str:
        """Empty when a router would take a request and this process does not drain; else the reason why not."""
        if self._draining:
            return "draining"
        return "" if self._routers.ready else _NO_ROUTER

    @property
    def open(self) -> int:
        """Requests under way."""
        return self._routers.open + self._beginning

    def drain(self) -> None:
        """Says that it is not ready any more."""
        self._draining = True

    async def _begin(self, submit: chat_pb2.ChatSubmit, call: Call, sink: EventSink) -> RemoteAnswer:
        submit.traceparent = call.traceparent
        if call.strict is not None:
            submit.strict = call.strict
        attempts = _Attempts(self._routers, call, self._resubmitted)
        self._beginning += 1
        try:
            while True:
                link = await attempts.next()
                remaining = call.remaining_s()
                if remaining is not None:
                    submit.timeout_ms = max(1, math.ceil(remaining * 1000))
                answer = link.session(call.authorization).submit(submit, sink)
                try:
                    await answer.begun()
                    return answer
                except ServiceError as error:
                    attempts.failed(error)
                except asyncio.CancelledError:
                    answer.cancel()
                    raise
        finally:
            self._beginning -= 1

    async def _ask(self, method: Ask, request: Message, call: Call, kind: type[Reply]) -> Reply:
        """Returns a router's reply, of this kind."""
        metadata = [("x-request-id", call.request_id)]
        metadata += [("authorization", call.authorization.reveal())] if call.authorization else []
        metadata += [("traceparent", call.traceparent)] if call.traceparent else []
        metadata += [("x-strict", str(call.strict).lower())] if call.strict is not None else []
        attempts = _Attempts(self._routers, call, self._resubmitted)
        while True:
            link = await attempts.next()
            remaining = call.remaining_s()
            timeout = _ASK_TIMEOUT_S if remaining is None else min(_ASK_TIMEOUT_S, remaining)
            try:
                reply = await method(link)(request, metadata=metadata, timeout=timeout)
                assert isinstance(reply, kind)
                return reply
            except grpc.aio.AioRpcError as failure:
                attempts.failed(call_error(link.address, failure))


class _Attempts:
    """The routers that one request is taken to, one after the other."""

    def __init__(self, routers: Routers, call: Call, resubmitted: Count) -> None:
        self._routers = routers
        self._call = call
        self._resubmitted = resubmitted
        self._tried: frozenset[tuple[str, int]] = frozenset()
        self._error: ServiceError | None = None

    async def next(self) -> RouterLink:
        """Returns the next router. Raises what the last one said where there is no other."""
        error = self._error
        link = self._routers.choose(self._tried)
        # Where all are full, or have no worker, none that returns would do better.
        if link is None and (error is None or isinstance(error, RouterLost | Draining)):
            link = await self._routers.until_other(self._tried, self._call.remaining_s())
        if link is None:
            raise error or NoRouter(_NO_ROUTER, retry_after_s=1.0)
        if error is not None:
            self._resubmitted.inc()
        self._tried |= {(link.address, link.state)}
        return link

    def failed(self, error: ServiceError) -> None:
        """Notes what a router said before the answer began. Raises it where another one would say the same."""
        if not isinstance(error, Unavailable | QueueFull) or len(self._tried) >= _MOST_TRIED:
            raise error
        self._error = error
