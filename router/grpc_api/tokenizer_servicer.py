"""TokenizerService on the router's port: clients can count and see tokens without a tokenizer tier."""

from __future__ import annotations

from qwenserve.router.chat.call import Call
from qwenserve.router.chat.interface import Backend
from qwenserve.router.grpc_api.chat_servicer import Context
from qwenserve.runtime.errors import InvalidRequest
from qwenserve.tokenizer.v1 import tokenizer_pb2, tokenizer_pb2_grpc

# A key has been looked at by the server already.
_ANYBODY = Call("")
_MAX_TEXTS = 1024
_MAX_CONVERSATIONS = 256


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """The router's own view of tokens, thinking default included."""

    def __init__(self, core: Backend) -> None:
        self._core = core

    async def Tokenize(  # noqa: N802
        self, request: tokenizer_pb2.TokenizeRequest, context: Context
    ) -> tokenizer_pb2.TokenizeResponse:
        """Texts to ids."""
        _check_count(len(request.texts), _MAX_TEXTS, "texts")
        return await self._core.tokenize(request, _ANYBODY)

    async def TokenizeChat(  # noqa: N802
        self, request: tokenizer_pb2.TokenizeChatRequest, context: Context
    ) -> tokenizer_pb2.TokenizeChatResponse:
        """Conversations to prompts and ids."""
        _check_count(len(request.conversations), _MAX_CONVERSATIONS, "conversations")
        return await self._core.tokenize_chat(request, _ANYBODY)

    async def Detokenize(  # noqa: N802
        self, request: tokenizer_pb2.DetokenizeRequest, context: Context
    ) -> tokenizer_pb2.DetokenizeResponse:
        """Ids to texts."""
        _check_count(len(request.batches), _MAX_TEXTS, "batches")
        return await self._core.detokenize(request, _ANYBODY)

    async def GetTokenizerInfo(  # noqa: N802
        self, request: tokenizer_pb2.GetTokenizerInfoRequest, context: Context
    ) -> tokenizer_pb2.TokenizerInfo:
        """What tokenizer and chat template are."""
        return await self._core.tokenizer_info(request, _ANYBODY)


def _check_count(count: int, most: int, param: str) -> None:
    if not 1 <= count <= most:
        raise InvalidRequest(f"{param} must have 1 to {most:,} entries, got {count:,}", param=param)
