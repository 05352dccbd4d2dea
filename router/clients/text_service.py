"""Where a router gets its token ids: the text library in this process, or the tokenizer tier."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.message import Message

from qwenserve.chat.v1 import message_pb2
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from runtime.config import GrpcConfig
from runtime.conversation import TemplateInput
from runtime.errors import Draining, InternalError, InvalidRequest, ServiceError, Unavailable
from runtime.grpc_setup import from_rpc_error, make_channel
from runtime.lifecycle import TaskOwner
from text.assets import ModelAssets
from text.chat_template import TemplateError

_TIMEOUT_S = 30.0
# The tier takes at most 256 conversations a call; fewer keep one slow conversation from delaying many.
_BATCH = 64
_RETRY_AFTER_S = 2.0
# How the tier names the place of an error in a batch of one.
_PLACE = "conversations[0]."


class RenderedChat(NamedTuple):
    """A conversation as the model sees it. `prompt` is empty where only the ids were needed."""

    token_ids: Sequence[int]
    prompt: str


class TextService(Protocol):
    """Renders and tokenizes. Raises ServiceError naming the field."""

    async def render_chat(
        self, conversation: message_pb2.Conversation, given: TemplateInput, *, need_prompt: bool
    ) -> RenderedChat:
        """Renders a conversation and tokenizes it. `given` is the same conversation as the template takes it, with
        the deployment's defaults filled in, and without tools where they must not be shown."""

    async def tokenize(self, text: str) -> Sequence[int]:
        """Tokenizes a text as it stands."""

    async def close(self) -> None:
        """Releases connections."""


class LocalTextService:
    """The text library in this process."""

    def __init__(self, assets: ModelAssets) -> None:
        self._assets = assets

    async def render_chat(
        self, conversation: message_pb2.Conversation, given: TemplateInput, *, need_prompt: bool
    ) -> RenderedChat:
        """Renders here; long texts are tokenized off the event loop."""
        try:
            prompt = self._assets.template.render(
                given.messages,
                given.tools,
                add_generation_prompt=given.add_generation_prompt,
                continue_final_message=given.continue_final_message,
                **given.variables,
            )
        except TemplateError as error:
            where = "messages" if error.message_index is None else f"messages[{error.message_index}]"
            raise InvalidRequest(f"{where}: the chat template cannot render it: {error}", param=where) from None
        return RenderedChat(await self._assets.tokenizer.encode_async(prompt), prompt)

    async def tokenize(self, text: str) -> Sequence[int]:
        """Tokenizes; long texts off the event loop."""
        return await self._assets.tokenizer.encode_async(text)

    async def close(self) -> None:
        """Nothing to release."""


class RemoteTextService:
    """The tokenizer tier: calls that come while one is under way travel together in the next."""

    def __init__(self, addresses: Sequence[str], model: str, config: GrpcConfig) -> None:
        self._model = model
        self._channels = [make_channel(address, config) for address in addresses]
        # In turn, so that all processes of the tier get their share.
        self._stubs = deque(tokenizer_pb2_grpc.TokenizerServiceStub(channel) for channel in self._channels)
        self._tasks = TaskOwner()
        self._waiting: list[tuple[message_pb2.Conversation, asyncio.Future[tokenizer_pb2.TokenizedChat]]] = []
        self._sending = 0

    async def render_chat(
        self, conversation: message_pb2.Conversation, given: TemplateInput, *, need_prompt: bool
    ) -> RenderedChat:
        """Renders and tokenizes in the tier; batched with its neighbours unless the text is wanted too."""
        conversation = _settled(conversation, given)
        if need_prompt:
            result = (await self._call([conversation], need_prompt=True))[0]
        else:
            future: asyncio.Future[tokenizer_pb2.TokenizedChat] = asyncio.get_running_loop().create_future()
            self._waiting.append((conversation, future))
            # One batch under way per tier process: what arrives meanwhile forms the next one.
            if self._sending < len(self._channels):
                self._sending += 1
                self._tasks.start(self._send_waiting(), name="tokenizer-batches")
            result = await future
        return RenderedChat(result.token_ids.ids, result.prompt)

    async def tokenize(self, text: str) -> Sequence[int]:
        """Tokenizes in the tier."""
        request = tokenizer_pb2.TokenizeRequest(model=self._model, texts=[text])
        response: tokenizer_pb2.TokenizeResponse = await self._ask("Tokenize", request)
        _check_count(1, len(response.results))
        return response.results[0].ids

    async def close(self) -> None:
        """Closes the channels; whoever still waits is told."""
        await self._tasks.close()
        for _, future in self._waiting:
            _settle(future, Draining("the router is shutting down"))
        self._waiting = []
        for channel in self._channels:
            await channel.close()

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                await self._send(batch)
        finally:
            self._sending -= 1

    async def _send(
        self, batch: list[tuple[message_pb2.Conversation, asyncio.Future[tokenizer_pb2.TokenizedChat]]]
    ) -> None:
        try:
            results = await self._call([conversation for conversation, _ in batch], need_prompt=False)
        except InvalidRequest as error:
            if len(batch) == 1:
                _settle(batch[0][1], error)
                return
            # One bad conversation fails a whole batch: each gets a call and an answer of its own.
            for item in batch:
                await self._send([item])
            return
        except BaseException as error:
            defect = error if isinstance(error, Exception) else Draining("the router is shutting down")
            for _, future in batch:
                _settle(future, defect)
            if defect is not error:
                raise
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    async def _call(
        self, conversations: Sequence[message_pb2.Conversation], *, need_prompt: bool
    ) -> Sequence[tokenizer_pb2.TokenizedChat]:
        request = tokenizer_pb2.TokenizeChatRequest(
            model=self._model, conversations=conversations, return_prompt=need_prompt
        )
        try:
            response: tokenizer_pb2.TokenizeChatResponse = await self._ask("TokenizeChat", request)
        except InvalidRequest as error:
            # The caller sent one conversation and knows nothing of batches.
            param = (error.param or "").removeprefix(_PLACE) or None
            raise InvalidRequest(error.message.removeprefix(_PLACE), param=param) from None
        _check_count(len(conversations), len(response.results))
        return response.results

    async def _ask(self, method: str, request: Message) -> Any:
        """Calls the next process of the tier, and the others where it is not there. Raises ServiceError."""
        failure: ServiceError = Unavailable("no tokenizer is configured")
        for _ in range(len(self._stubs)):
            stub = self._stubs[0]
            self._stubs.rotate(-1)
            try:
                return await getattr(stub, method)(request, timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc_error(error)
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise failure from None
        raise Unavailable(f"no tokenizer answers: {failure.message}", retry_after_s=_RETRY_AFTER_S)


def _settled(conversation: message_pb2.Conversation, given: TemplateInput) -> message_pb2.Conversation:
    """Returns a copy that says what `given` says; the caller's message stays as it was."""
    copy = message_pb2.Conversation()
    copy.CopyFrom(conversation)
    copy.enable_thinking = bool(given.variables["enable_thinking"])
    if given.tools is None:
        del copy.tools[:]
    return copy


def _check_count(asked: int, given: int) -> None:
    if asked != given:
        raise InternalError(f"the tokenizer tier answered {given} of {asked} texts")


def _settle(future: asyncio.Future[tokenizer_pb2.TokenizedChat], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
