"""`/v1/responses`, whole and streamed. Stateless: nothing is stored, every request brings its whole conversation."""

from __future__ import annotations

from qwenserve.router.chat.fold import Fold
from qwenserve.router.chat.interface import Backend
from qwenserve.router.http.openai.errors import OPENAI_ERRORS
from qwenserve.router.http.responses.answers import ResponseStream, response_body
from qwenserve.router.http.responses.draft import ResponsesDraft
from qwenserve.router.http.responses.fields import fields
from qwenserve.router.http.transport.answering import stream, until_complete
from qwenserve.router.http.transport.body import read_request
from qwenserve.router.http.transport.endpoint import BodySchema, Endpoint
from qwenserve.router.http.transport.exchange import Exchange
from qwenserve.router.http.transport.field_rows import fill
from qwenserve.router.http.transport.json_body import BodyModel
from qwenserve.router.http.transport.naming import names_given, naming, other_names
from qwenserve.router.http.transport.reply import Reply
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.errors import InvalidRequest

_FIELDS = fields()
_OTHER_NAMES = other_names(_FIELDS)
_APPLIERS = {name: field.apply for name, field in _FIELDS.items()}
_BODY = BodyModel("ResponsesRequest", {name: field.kind for name, field in _FIELDS.items()}, required="input")


class ResponsesEndpoints:
    """The face of OpenAI's Responses API."""

    def __init__(self, backend: Backend, config: HttpConfig) -> None:
        self._backend = backend
        self._config = config

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Returns their rows of the table."""
        body = BodySchema("ResponsesRequest", _BODY, _FIELDS)
        return (Endpoint("POST", "/v1/responses", "responses", self.create, OPENAI_ERRORS, generates=True, body=body),)

    async def create(self, exchange: Exchange) -> Reply:
        """Answers a conversation, in the form of OpenAI's Responses API."""
        draft = await read_request(exchange.request, self._config, _read)
        message = draft.request
        exchange.model = message.model
        message.request_id = exchange.request_id
        exchange.ignore(draft.ignored)
        call = exchange.call()
        exchange.handed_over = True
        if draft.stream:
            form = ResponseStream(draft.echo)
            return await stream(
                exchange,
                form,
                self._config,
                lambda sink: naming(draft.names, self._backend.stream_chat(message, call, sink)),
                errors=form,
            )
        fold = Fold()
        answer = await naming(draft.names, self._backend.stream_chat(message, call, fold))
        await until_complete(exchange, fold, answer)
        return exchange.reply(response_body(fold, draft.echo))


def _read(body: bytes) -> ResponsesDraft:
    values = _BODY.read(body)
    if values["input"] is None:
        raise InvalidRequest("input is missing", param="input")
    draft = ResponsesDraft()
    draft.names.update(names_given(_OTHER_NAMES, values.keys()))
    fill(draft, _APPLIERS, values)
    draft.finish()
    return draft
