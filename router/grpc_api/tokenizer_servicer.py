"""TokenizerService on the router's port: clients can count and see tokens without a tokenizer tier."""

from __future__ import annotations

from qwenserve.router.chat.call import Call
from qwenserve.router.chat.interface import Backend
from qwenserve.router.grpc_api.chat_servicer import Context, text_of
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.errors import InvalidRequest
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc

_MAX_TEXTS = 1024
_MAX_CONVERSATIONS = 256


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """The router's own view of tokens, thinking default included."""

    def __init__(self, core: Backend, keys: KeyRing) -> None:
        self._core = core
        self._keys = keys

    async def Tokenize(  # noqa: N802
        self, request: tokenizer_pb2.TokenizeRequest, context: Context
    ) -> tokenizer_pb2.TokenizeResponse:
        """Texts to ids."""
        _check_count(len(request.texts), _MAX_TEXTS, "texts")
        return await self._core.tokenize(request, self._call(context))

    async def TokenizeChat(  # noqa: N802
        self, request: tokenizer_pb2.TokenizeChatRequest, context: Context
    ) -> tokenizer_pb2.TokenizeChatResponse:
        """Conversations to prompts and ids."""
        _check_count(len(request.conversations), _MAX_CONVERSATIONS, "conversations")
        return await self._core.tokenize_chat(request, self._call(context))

    async def Detokenize(  # noqa: N802
        self, request: tokenizer_pb2.DetokenizeRequest, context: Context
    ) -> tokenizer_pb2.DetokenizeResponse:
        """Ids to texts."""
        _check_count(len(request.batches), _MAX_TEXTS, "batches")
        return await self._core.detokenize(request, self._call(context))

    async def GetTokenizerInfo(  # noqa: N802
        self, request: tokenizer_pb2.GetTokenizerInfoRequest, context: Context
    ) -> tokenizer_pb2.TokenizerInfo:
        """What tokenizer and chat template are."""
        return await self._core.tokenizer_info(request, self._call(context))

    def _call(self, context: Context) -> Call:
        """Returns the call with the caller's key, which has limits for these methods, too."""
        metadata = dict(context.invocation_metadata() or ())
        return Call("", key_id=self._keys.check(text_of(metadata.get("authorization"))))


def _check_count(count: int, most: int, param: str) -> None:
    if not 1 <= count <= most:
        raise InvalidRequest(f"{param} must have 1 to {most:,} entries, got {count:,}", param=param)
