"""The use case as its faces see it: the public API, without the network in between.

Implemented by `router.chat.service.ChatCore`, and by `router.shim.backend.RemoteBackend` for faces that run apart.
Messages are those of `protos/qwenserve/chat/v1`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.call import Call
from qwenserve.runtime.errors import ServiceError
from qwenserve.tokenizer.v1 import tokenizer_pb2


class EventSink(Protocol):
    """Receives one answer. Called on the event loop, straight from the reader of the worker's session: it must
    not block, and it must not raise. After `failed`, or after the event that carries `usage`, nothing more comes.
    """

    def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
        """Takes what one engine step gave this answer. The very first event is `start`."""

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None] | None:
        """Returns a function that takes each delta of a choice's plain text as if an event had brought it: most deltas
        need no event, and every object that a token touches costs time. It is asked for once the answer has begun, and
        is valid until its end. None: not yet; send events and ask again.
        """

    def failed(self, error: ServiceError) -> None:
        """The answer ended early."""


class RunningAnswer(Protocol):
    """An answer under way."""

    def cancel(self) -> None:
        """Stops the engine's work for it; no further calls to the sink. Safe to call at any time."""


class Backend(Protocol):
    """The router as a face sees it. All methods raise ServiceError, and only before the first event."""

    async def stream_chat(self, request: chat_pb2.ChatCompletionRequest, call: Call, sink: EventSink) -> RunningAnswer:
        """Checks, renders, tokenizes, routes and submits; events then flow to `sink`."""

    async def stream_completion(
        self, request: chat_pb2.CompletionRequest, call: Call, sink: EventSink
    ) -> RunningAnswer:
        """Like `stream_chat`, for a text or token ids."""

    async def explain(self, request: chat_pb2.ExplainRequest, call: Call) -> chat_pb2.ExplainResponse:
        """What would be done with a request; generates nothing."""

    async def tokenize(self, request: tokenizer_pb2.TokenizeRequest, call: Call) -> tokenizer_pb2.TokenizeResponse:
        """Texts to ids."""

    async def tokenize_chat(
        self, request: tokenizer_pb2.TokenizeChatRequest, call: Call
    ) -> tokenizer_pb2.TokenizeChatResponse:
        """Conversations to rendered prompts and ids."""

    async def detokenize(
        self, request: tokenizer_pb2.DetokenizeRequest, call: Call
    ) -> tokenizer_pb2.DetokenizeResponse:
        """Ids to texts."""

    async def tokenizer_info(
        self, request: tokenizer_pb2.GetTokenizerInfoRequest, call: Call
    ) -> tokenizer_pb2.TokenizerInfo:
        """What tokenizer and chat template are. Raises ModelNotFound."""

    async def list_models(self, call: Call) -> chat_pb2.ListModelsResponse:
        """The model that is served, once for each name that requests may use; first the name in answers."""

    async def get_model(self, name: str, call: Call) -> chat_pb2.Model:
        """One model, by name, in any case. Raises ModelNotFound."""

    def ready(self) -> str:
        """Empty when a request would be answered now; else the reason why not."""
