"""Where a router gets its token ids: the text library in this process, or the tokenizer tier."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import grpc

from qwenserve.chat.v1 import message_pb2
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from runtime.config import GrpcConfig
from runtime.conversation import TemplateInput
from runtime.errors import InvalidRequest
from runtime.grpc_setup import from_rpc_error, make_channel
from runtime.lifecycle import TaskOwner
from text.assets import ModelAssets
from text.chat_template import TemplateError

_TIMEOUT_S = 30.0
# The tier takes at most 256 conversations a call; fewer keep one slow conversation from delaying many.
_BATCH = 64


class RenderedChat(NamedTuple):
    """A conversation as the model sees it. `prompt` is empty where only the ids were needed."""

    token_ids: Sequence[int]
    prompt: str


class TextService(Protocol):
    """Renders and tokenizes. Raises ServiceError naming the field."""

    async def render_chat(
        self, conversation: message_pb2.Conversation, given: TemplateInput, *, need_prompt: bool
    ) -> RenderedChat:
        """Renders a conversation and tokenizes it. `given` is the same conversation as the template takes it; both
        have the deployment's defaults filled in."""

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
            raise InvalidRequest(f"the chat template cannot render this: {error}", param="messages") from None
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
        self._stubs = itertools.cycle([tokenizer_pb2_grpc.TokenizerServiceStub(channel) for channel in self._channels])
        self._tasks = TaskOwner()
        self._waiting: list[tuple[message_pb2.Conversation, asyncio.Future[tokenizer_pb2.TokenizedChat]]] = []
        self._sending = 0

    async def render_chat(
        self, conversation: message_pb2.Conversation, given: TemplateInput, *, need_prompt: bool
    ) -> RenderedChat:
        """Renders and tokenizes in the tier; batched with its neighbours unless the text is wanted too."""
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
        try:
            response = await next(self._stubs).Tokenize(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        ids: Sequence[int] = response.results[0].ids
        return ids

    async def close(self) -> None:
        """Closes the channels."""
        await self._tasks.close()
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
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0][1], error)
                return
            # One bad conversation fails a whole batch: each gets a call and an answer of its own.
            for item in batch:
                await self._send([item])
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
            response = await next(self._stubs).TokenizeChat(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        results: Sequence[tokenizer_pb2.TokenizedChat] = response.results
        return results


def _settle(future: asyncio.Future[tokenizer_pb2.TokenizedChat], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
