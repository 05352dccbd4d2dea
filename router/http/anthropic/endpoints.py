"""`/v1/messages`, whole and streamed, and `/v1/messages/count_tokens`."""

from __future__ import annotations

from qwenserve.router.chat.fold import Fold
from qwenserve.router.chat.interface import Backend
from qwenserve.router.http.anthropic.answers import MessageStream, message_body
from qwenserve.router.http.anthropic.draft import MessagesDraft
from qwenserve.router.http.anthropic.errors import ANTHROPIC_ERRORS
from qwenserve.router.http.anthropic.fields import fields
from qwenserve.router.http.transport.answering import stream, until_complete
from qwenserve.router.http.transport.body import read_request
from qwenserve.router.http.transport.endpoint import BodySchema, Endpoint
from qwenserve.router.http.transport.exchange import Exchange
from qwenserve.router.http.transport.field_rows import fill
from qwenserve.router.http.transport.json_body import BodyModel, to_json
from qwenserve.router.http.transport.naming import names_given, naming, other_names
from qwenserve.router.http.transport.reply import Reply
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.errors import InvalidRequest
from qwenserve.tokenizer.v1 import tokenizer_pb2

_FIELDS = fields()
# Where that API's clients look for the request's id.
_ID = "request-id"
_OTHER_NAMES = other_names(_FIELDS)
_APPLIERS = {name: field.apply for name, field in _FIELDS.items()}
MESSAGES_BODY = BodyModel(
    "MessagesRequest", {name: field.kind for name, field in _FIELDS.items()}, required="messages"
)  # fmt: skip


class MessagesEndpoints:
    """Anthropic's face."""

    def __init__(self, backend: Backend, config: HttpConfig) -> None:
        self._backend = backend
        self._config = config

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Returns their rows of the table."""
        body = BodySchema("MessagesRequest", MESSAGES_BODY, _FIELDS)
        messages = Endpoint(
            "POST", "/v1/messages", "messages", self.create, ANTHROPIC_ERRORS, generates=True, body=body, id_header=_ID
        )
        count = Endpoint(
            "POST",
            "/v1/messages/count_tokens",
            "count_tokens",
            self.count_tokens,
            ANTHROPIC_ERRORS,
            body=body,
            id_header=_ID,
        )
        return messages, count

    async def create(self, exchange: Exchange) -> Reply:
        """Answers a conversation, in the form of Anthropic's API."""
        draft = await read_request(exchange.request, self._config, _read)
        if not draft.sampling.HasField("max_tokens"):
            raise InvalidRequest("max_tokens is missing", param="max_tokens")
        message = draft.request
        exchange.model = message.model
        message.request_id = exchange.request_id
        exchange.ignore(draft.ignored)
        call = exchange.call()
        exchange.handed_over = True
        if draft.stream:
            return await stream(
                exchange,
                MessageStream(),
                self._config,
                lambda sink: naming(draft.names, self._backend.stream_chat(message, call, sink)),
            )
        fold = Fold()
        answer = await naming(draft.names, self._backend.stream_chat(message, call, fold))
        await until_complete(exchange, fold, answer)
        return exchange.reply(message_body(fold))

    async def count_tokens(self, exchange: Exchange) -> Reply:
        """Counts the tokens of a conversation, tools and template included."""
        draft = await read_request(exchange.request, self._config, _read)
        exchange.ignore(draft.ignored)
        reply = await self._backend.tokenize_chat(
            tokenizer_pb2.TokenizeChatRequest(model=draft.request.model, conversations=[draft.conversation]),
            exchange.call(),
        )
        return exchange.reply(to_json({"input_tokens": len(reply.results[0].token_ids.ids)}))


def _read(body: bytes) -> MessagesDraft:
    draft = MessagesDraft()
    values = MESSAGES_BODY.read(body)
    draft.names.update(names_given(_OTHER_NAMES, values.keys()))
    fill(draft, _APPLIERS, values)
    draft.finish()
    return draft
