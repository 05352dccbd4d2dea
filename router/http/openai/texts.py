"""`/tokenize`, `/detokenize`, `/explain` and `/v1/models`: what a deployment would do, and with what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.interface import Backend
from qwenserve.router.http.openai.drafts import ChatDraft, Draft
from qwenserve.router.http.openai.errors import OPENAI_ERRORS
from qwenserve.router.http.openai.fields import fields_of
from qwenserve.router.http.openai.requests import CHAT_BODY, COMPLETION_BODY, read_chat, read_completion
from qwenserve.router.http.transport.body import read_request
from qwenserve.router.http.transport.endpoint import NAME, BodySchema, Endpoint
from qwenserve.router.http.transport.exchange import Exchange
from qwenserve.router.http.transport.field_rows import ID_SCHEMA, Face, Id, Objects
from qwenserve.router.http.transport.json_body import BodyModel, to_json
from qwenserve.router.http.transport.naming import naming
from qwenserve.router.http.transport.reply import Reply
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.errors import InvalidRequest
from qwenserve.tokenizer.v1 import tokenizer_pb2
from qwenserve.type.v1 import sampling_pb2, task_pb2

_CHAT_FIELDS = fields_of(Face.CHAT)
# The fields of a chat that decide its prompt.
_PROMPT_FIELDS = {name: field for name, field in _CHAT_FIELDS.items() if field.target.startswith("conversation.")}
_TASKS = {
    task_pb2.TASK_KIND_GENERATE: "generate",
    task_pb2.TASK_KIND_EMBED: "embed",
    task_pb2.TASK_KIND_SCORE: "score",
}
# The fields of the batches that these endpoints make of one text or list each.
_TEXT_NAMES = {"batches": "tokens", "texts": "prompt", "conversations": "messages"}
# Numbers that are written on the event loop in one go, within a millisecond or two.
_INLINE_NUMBERS = 16_384
_ANY_OBJECT = BodyModel("AnyObject", {})

TOKENIZE_BODY = BodyModel(
    "TokenizeRequest",
    {
        "model": str,
        "prompt": str,
        "return_token_strs": bool,
        "return_prompt": bool,
        "add_special_tokens": bool,
        **{name: field.kind for name, field in _PROMPT_FIELDS.items()},
        "messages": Objects,
    },
)
DETOKENIZE_BODY = BodyModel(
    "DetokenizeRequest",
    {
        "model": str,
        "tokens": list[Annotated[Id, Field(ge=0), ID_SCHEMA]],
        "skip_special_tokens": bool,
    },
    required="tokens",
)


class TextEndpoints:
    """The endpoints that generate nothing."""

    def __init__(self, backend: Backend, config: HttpConfig) -> None:
        self._backend = backend
        self._config = config

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Returns their rows of the table."""
        chat = BodySchema("ChatCompletionRequest", CHAT_BODY, _CHAT_FIELDS)
        tokenize = BodySchema("TokenizeRequest", TOKENIZE_BODY, {})
        detokenize = BodySchema("DetokenizeRequest", DETOKENIZE_BODY, {})
        return (
            Endpoint("GET", "/v1/models", "models", self.list_models, OPENAI_ERRORS),
            Endpoint("GET", "/v1/models/", "models", self.list_models, OPENAI_ERRORS),
            Endpoint("GET", f"/v1/models/{NAME}", "models", self.get_model, OPENAI_ERRORS),
            Endpoint("POST", "/tokenize", "tokenize", self.tokenize, OPENAI_ERRORS, body=tokenize),
            Endpoint("POST", "/detokenize", "detokenize", self.detokenize, OPENAI_ERRORS, body=detokenize),
            Endpoint("GET", "/tokenizer_info", "tokenize", self.tokenizer_info, OPENAI_ERRORS),
            Endpoint("POST", "/explain", "explain", self.explain, OPENAI_ERRORS, body=chat),
        )

    async def tokenize(self, exchange: Exchange) -> Reply:
        """Token ids of a text (`prompt`) or of a conversation (`messages`, as the chat template renders it)."""
        given = await read_request(exchange.request, self._config, _tokenize_request)
        exchange.ignore(given.ignored)
        more: dict[str, Any]
        if given.chat is not None:
            chats = await naming(_TEXT_NAMES, self._backend.tokenize_chat(given.chat, exchange.call()))
            chat = chats.results[0]
            more = {"max_model_len": chats.max_model_len, "starts_in_reasoning": chat.starts_in_reasoning}
            if given.chat.return_prompt:
                more["prompt"] = chat.prompt
            return exchange.reply(await _tokens(chat.token_ids, more, given.chat.return_tokens))
        reply = await naming(_TEXT_NAMES, self._backend.tokenize(given.texts, exchange.call()))
        more = {"max_model_len": reply.max_model_len}
        return exchange.reply(await _tokens(reply.results[0], more, given.texts.return_tokens))

    async def detokenize(self, exchange: Exchange) -> Reply:
        """Text of token ids (`tokens`)."""
        request, ignored = await read_request(exchange.request, self._config, _detokenize_request)
        exchange.ignore(ignored)
        reply = await naming(_TEXT_NAMES, self._backend.detokenize(request, exchange.call()))
        return exchange.reply(to_json({"prompt": reply.texts[0]}))

    async def tokenizer_info(self, exchange: Exchange) -> Reply:
        """The tokenizer's tokens with names and ids of their own, and the chat template, by the names of
        `tokenizer_config.json`."""
        info = await self._backend.tokenizer_info(tokenizer_pb2.GetTokenizerInfoRequest(), exchange.call())
        return exchange.reply(to_json(_tokenizer_info(info)))

    async def explain(self, exchange: Exchange) -> Reply:
        """What would be done with a chat or completion request; generates nothing."""
        request, draft = await read_request(exchange.request, self._config, _explain_request)
        exchange.ignore(draft.ignored)
        reply = await naming(draft.names, self._backend.explain(request, exchange.call()))
        exchange.note_ignored(reply.ignored_params)
        body = {**_explained(reply), "ignored_params": list(exchange.ignored)}
        return exchange.reply(await _json(body, len(reply.token_ids)))

    async def list_models(self, exchange: Exchange) -> Reply:
        """The model that this router serves, once for each name that requests may use."""
        listed = await self._backend.list_models(exchange.call())
        models = [_model(model) for model in listed.models]
        return exchange.reply(to_json({"object": "list", "data": models}))

    async def get_model(self, exchange: Exchange) -> Reply:
        """One model and its limits."""
        model = await self._backend.get_model(exchange.name, exchange.call())
        return exchange.reply(to_json(_model(model)))


def _explain_request(body: bytes) -> tuple[chat_pb2.ExplainRequest, Draft]:
    request = chat_pb2.ExplainRequest()
    if any(name.lower() == "messages" for name in _ANY_OBJECT.read(body)):
        chat = read_chat(CHAT_BODY.read(body))
        request.chat.CopyFrom(chat.request)
        return request, chat
    completion = read_completion(COMPLETION_BODY.read(body))
    request.completion.CopyFrom(completion.request)
    return request, completion


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class _Tokenize(NamedTuple):
    """What is asked of `/tokenize`: `chat` where it is a conversation, else `texts`."""

    texts: tokenizer_pb2.TokenizeRequest
    chat: tokenizer_pb2.TokenizeChatRequest | None
    ignored: list[str]


def _tokenize_request(body: bytes) -> _Tokenize:
    values = _given(TOKENIZE_BODY.read(body))
    model = values.pop("model", "")
    with_tokens = values.pop("return_token_strs", False)
    ignored = ["add_special_tokens"] if values.pop("add_special_tokens", False) else []
    texts = tokenizer_pb2.TokenizeRequest(model=model, return_tokens=with_tokens)
    if "messages" not in values:
        prompt = values.pop("prompt", None)
        if prompt is None:
            raise InvalidRequest("send prompt or messages", param="prompt")
        texts.texts.append(prompt)
        return _Tokenize(texts, None, ignored + list(values))
    with_prompt = values.pop("return_prompt", False)
    draft = ChatDraft()
    for name, value in values.items():
        field = _PROMPT_FIELDS.get(name)
        if field is None:
            draft.ignored.append(name)
        else:
            field.apply(draft, value)
    chat = tokenizer_pb2.TokenizeChatRequest(
        model=model, conversations=[draft.conversation], return_prompt=with_prompt, return_tokens=with_tokens
    )
    return _Tokenize(texts, chat, ignored + draft.ignored)


def _detokenize_request(body: bytes) -> tuple[tokenizer_pb2.DetokenizeRequest, list[str]]:
    values = _given(DETOKENIZE_BODY.read(body))
    request = tokenizer_pb2.DetokenizeRequest(
        model=values.pop("model", ""),
        batches=[tokenizer_pb2.TokenIds(ids=values.pop("tokens", []))],
        skip_special_tokens=values.pop("skip_special_tokens", False),
    )
    return request, list(values)


async def _tokens(tokens: tokenizer_pb2.TokenIds, more: dict[str, Any], with_tokens: bool) -> bytes:
    """Returns token ids as JSON, with `more` beside them. What is long is written in pieces: an encoder keeps the
    interpreter to itself, in whatever thread it runs.
    """
    body = [to_json({"count": len(tokens.ids), **more})[:-1], b',"tokens":', *await _array(tokens.ids)]
    if with_tokens:
        body += [b',"token_strs":', *await _array(tokens.tokens)]
    return b"".join((*body, b"}"))


async def _array(values: Sequence[int] | Sequence[str]) -> list[bytes]:
    pieces = [b"["]
    for begin in range(0, len(values), _INLINE_NUMBERS):
        if begin:
            pieces.append(b",")
            await asyncio.sleep(0)
        pieces.append(to_json(list(values[begin : begin + _INLINE_NUMBERS]))[1:-1])
    return [*pieces, b"]"]


def _tokenizer_info(info: tokenizer_pb2.TokenizerInfo) -> dict[str, Any]:
    template: Any = info.chat_template
    if info.tool_chat_template:  # the form that files with two templates have
        template = [
            {"name": "default", "template": info.chat_template},
            {"name": "tool_use", "template": info.tool_chat_template},
        ]
    return {
        # Clients take these three without asking whether they are there.
        "bos_token": None,
        "eos_token": None,
        "pad_token": None,
        **info.special_tokens,
        "model": info.model,
        # The class that reads the files of the whole family.
        "tokenizer_class": "Qwen2Tokenizer",
        "vocab_size": info.vocab_size,
        "model_max_length": info.max_model_len,
        "eos_token_ids": list(info.eos_token_ids),
        "added_tokens_decoder": {
            str(token.id): {"content": token.content, "special": token.special} for token in info.added_tokens
        },
        "chat_template": template,
    }


async def _json(body: dict[str, Any], numbers: int) -> bytes:
    """Returns a reply as JSON, made off the event loop where it has many numbers."""
    return to_json(body) if numbers <= _INLINE_NUMBERS else await asyncio.to_thread(to_json, body)


def _sampling(sampling: sampling_pb2.SamplingParams) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for field, value in sampling.ListFields():
        if field.name == "logit_bias":
            shown[field.name] = {str(token_id): _short(bias) for token_id, bias in value.items()}
        elif field.name == "stop_token_ids":
            shown[field.name] = list(value)
        else:
            shown[field.name] = _short(value)
    return shown


def _short(value: Any) -> Any:
    # The messages hold single precision: 0.7 comes back as 0.699999988.
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _explained(reply: chat_pb2.ExplainResponse) -> dict[str, Any]:
    return {
        "model": reply.model,
        "prompt": reply.prompt,
        "token_ids": list(reply.token_ids),
        "prompt_tokens": len(reply.token_ids),
        "max_model_len": reply.max_model_len,
        "starts_in_reasoning": reply.starts_in_reasoning,
        "tool_call_format": reply.tool_call_format,
        "sampling": _sampling(reply.sampling),
        "defaulted_fields": list(reply.defaulted_fields),
        "candidates": [
            {
                "name": candidate.name,
                "score": candidate.score,
                "running": candidate.running,
                "queued": candidate.queued,
                "expected_cached_tokens": candidate.expected_cached_tokens,
                "ready": candidate.ready,
            }
            for candidate in reply.candidates
        ],
    }


def _model(model: chat_pb2.Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "qwenserve",
        "max_model_len": model.max_model_len,
        "vocab_size": model.vocab_size,
        "supports_thinking": model.supports_thinking,
        "tool_call_format": model.tool_call_format,
        "thinking_defaults": _sampling(model.thinking_defaults),
        "non_thinking_defaults": _sampling(model.non_thinking_defaults),
        "ready_workers": model.ready_workers,
        "simulated": model.simulated,
        "tasks": [_TASKS[kind] for kind in model.task_kinds if kind in _TASKS],
    }
