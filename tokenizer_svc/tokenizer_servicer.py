"""tokenizer.v1.TokenizerService: a thin face over the text library.

Long texts are encoded in threads that release the interpreter lock; what must run on the event loop runs one item
at a time, so that a large batch does not hold up the calls beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

import grpc

from qwenserve.chat.v1 import message_pb2
from qwenserve.runtime.config import Config
from qwenserve.runtime.errors import InvalidRequest, ModelNotFound
from qwenserve.runtime.token_ids import ids_message, in_turns
from qwenserve.text.assets import ModelAssets, tokenizer_facts
from qwenserve.text.content_guard import Prompt
from qwenserve.text.conversation import is_large
from qwenserve.text.markers import starts_in_reasoning
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from qwenserve.tokenizer_svc.rendering import Renderer

SERVICE = "qwenserve.tokenizer.v1.TokenizerService"

MAX_TEXTS = 1024
MAX_CONVERSATIONS = 256

# Token ids that are read in one request.
_MAX_IDS = 1 << 20
# Characters that are tokenized for one request.
_MAX_CHARACTERS = 1 << 23

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """Answers for one model."""

    def __init__(self, assets: ModelAssets, config: Config) -> None:
        self._renderer = Renderer(assets, config)
        self._tokenizer = assets.tokenizer
        self._assets = assets
        self._model = config.model_name
        self._names = {name.lower() for name in config.model_names}
        limits = (config.model.max_model_len, assets.max_model_len)
        self._max_model_len = min((limit for limit in limits if limit), default=0)

    async def Tokenize(  # noqa: N802 - the name is the proto's
        self, request: tokenizer_pb2.TokenizeRequest, context: Context
    ) -> tokenizer_pb2.TokenizeResponse:
        """Texts to ids."""
        self._check(request.model, "texts", len(request.texts), MAX_TEXTS)
        characters = sum(map(len, request.texts))
        if characters > _MAX_CHARACTERS:
            raise InvalidRequest(
                f"texts: {characters:,} characters; at most {_MAX_CHARACTERS:,} in one request", param="texts"
            )
        response = tokenizer_pb2.TokenizeResponse(max_model_len=self._max_model_len)
        for ids in await self._tokenizer.encode_batch_async(request.texts):
            response.results.append(await self._token_ids(ids, request.return_tokens))
            await asyncio.sleep(0)  # the calls beside this one have their turns
        return response

    async def TokenizeChat(  # noqa: N802
        self, request: tokenizer_pb2.TokenizeChatRequest, context: Context
    ) -> tokenizer_pb2.TokenizeChatResponse:
        """Conversations to prompts and ids."""
        self._check(request.model, "conversations", len(request.conversations), MAX_CONVERSATIONS)
        response = tokenizer_pb2.TokenizeChatResponse(max_model_len=self._max_model_len)
        for index, conversation in enumerate(request.conversations):
            path = f"conversations[{index}]"
            if is_large(conversation):
                prompt = await asyncio.to_thread(self._render, conversation, path)
            else:
                prompt = self._render(conversation, path)
            ids = await self._tokenizer.encode_async(prompt.text, prompt.mark)
            response.results.add(
                token_ids=await self._token_ids(ids, request.return_tokens),
                prompt=prompt.shown if request.return_prompt else "",
                starts_in_reasoning=starts_in_reasoning(self._tokenizer, ids),
            )
            await asyncio.sleep(0)
        return response

    async def Detokenize(  # noqa: N802
        self, request: tokenizer_pb2.DetokenizeRequest, context: Context
    ) -> tokenizer_pb2.DetokenizeResponse:
        """Ids to texts."""
        self._check(request.model, "batches", len(request.batches), MAX_TEXTS)
        count = sum(len(batch.ids) for batch in request.batches)
        if count > _MAX_IDS:
            raise InvalidRequest(f"batches: {count:,} token ids; at most {_MAX_IDS:,} in one request", param="batches")
        response = tokenizer_pb2.DetokenizeResponse()
        for index, batch in enumerate(request.batches):
            await self._check_ids(batch.ids, f"batches[{index}].ids")
            response.texts.append(await self._tokenizer.decode_async(batch.ids, request.skip_special_tokens))
            await asyncio.sleep(0)
        return response

    async def GetTokenizerInfo(  # noqa: N802
        self, request: tokenizer_pb2.GetTokenizerInfoRequest, context: Context
    ) -> tokenizer_pb2.TokenizerInfo:
        """What tokenizer and chat template are."""
        self._check_model(request.model)
        return tokenizer_pb2.TokenizerInfo(
            model=self._model, max_model_len=self._max_model_len, **tokenizer_facts(self._assets)
        )

    def _check_model(self, model: str) -> None:
        if model and model.lower() not in self._names:
            raise ModelNotFound(
                f"model {model!r} does not exist; this deployment serves {self._model!r}",
                param="model",
                metadata={"served": self._model},
            )

    def _check(self, model: str, field: str, size: int, limit: int) -> None:
        self._check_model(model)
        if not 1 <= size <= limit:
            raise InvalidRequest(f"{field}: send 1 to {limit:,} in one call, not {size:,}", param=field)

    async def _check_ids(self, ids: Sequence[int], field: str) -> None:
        size = self._tokenizer.vocab_size
        async for begin, turn in in_turns(ids):
            if min(turn) < 0 or max(turn) >= size:
                at = begin + next(n for n, i in enumerate(turn) if not 0 <= i < size)
                path = f"{field}[{at}]"
                raise InvalidRequest(f"{path}: {ids[at]} is not in the vocabulary of {size:,} tokens", param=path)

    def _render(self, conversation: message_pb2.Conversation, path: str) -> Prompt:
        try:
            return self._renderer.render(conversation)
        except InvalidRequest as error:
            raise InvalidRequest(f"{path}: {error.message}", param=f"{path}.{error.param}") from None

    async def _token_ids(self, ids: Sequence[int], with_tokens: bool) -> tokenizer_pb2.TokenIds:
        if len(ids) > _MAX_IDS:
            raise InvalidRequest(f"{len(ids):,} token ids; at most {_MAX_IDS:,} in one request", param="texts")
        return await ids_message(ids, self._tokenizer.token_piece if with_tokens else None)
