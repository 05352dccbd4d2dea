"""Pages about the service itself: health, metrics, and its own description."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

from qwenserve.router.http.backend import Backend
from qwenserve.router.http.exchange import Exchange
from qwenserve.router.http.fields import Face, Field, fields_of
from qwenserve.router.http.reply import Reply
from qwenserve.router.http.requests import CHAT_BODY, COMPLETION_BODY, BodyModel
from qwenserve.router.http.texts import DETOKENIZE_BODY, TOKENIZE_BODY
from qwenserve.router.http.whole import to_json
from qwenserve.runtime.metrics import RouterMetrics

_HTML = "text/html; charset=utf-8"


class Operation(NamedTuple):
    """One endpoint as its description shows it."""

    method: str
    path: str
    summary: str
    guarded: bool


class PageEndpoints:
    """Health, readiness, metrics, the OpenAPI document and a page that shows it."""

    def __init__(self, backend: Backend, metrics: RouterMetrics, operations: Sequence[Operation]) -> None:
        self._backend = backend
        self._metrics = metrics
        self._operations = operations
        self._document = b""
        self._page = b""

    async def root(self, exchange: Exchange) -> Reply:
        """Where everything is."""
        return exchange.reply(to_json({"service": "qwenserve", "api": "/v1", "docs": "/docs", "ready": "/readyz"}))

    async def healthz(self, exchange: Exchange) -> Reply:
        """Whether the process serves at all."""
        return exchange.reply(to_json({"status": "ok"}))

    async def readyz(self, exchange: Exchange) -> Reply:
        """Whether a request would be answered now: 200, or 503 with the reason."""
        reason = self._backend.ready()
        if reason:
            return exchange.reply(to_json({"status": "not ready", "reason": reason}), status=503)
        return exchange.reply(to_json({"status": "ready"}))

    async def metrics(self, exchange: Exchange) -> Reply:
        """Prometheus metrics. Open like the health pages: it tells numbers, never prompts."""
        body, content_type = self._metrics.render()
        return exchange.reply(body, content_type=content_type)

    async def openapi(self, exchange: Exchange) -> Reply:
        """The OpenAPI document."""
        # Made once, at the first look: start-up need not wait for it.
        self._document = self._document or to_json(document(self._operations))
        return exchange.reply(self._document)

    async def docs(self, exchange: Exchange) -> Reply:
        """The OpenAPI document as a page that loads nothing from elsewhere."""
        self._page = self._page or page(self._operations).encode()
        return exchange.reply(self._page, content_type=_HTML)


_BODIES: dict[str, tuple[str, BodyModel, Face | None]] = {
    "/v1/chat/completions": ("ChatCompletionRequest", CHAT_BODY, Face.CHAT),
    "/v1/completions": ("CompletionRequest", COMPLETION_BODY, Face.COMPLETION),
    "/tokenize": ("TokenizeRequest", TOKENIZE_BODY, None),
    "/detokenize": ("DetokenizeRequest", DETOKENIZE_BODY, None),
    "/explain": ("ChatCompletionRequest", CHAT_BODY, Face.CHAT),
}


_HEADERS = (
    ("x-request-id", "string", "Id of the request in logs and reply; one is made where it is absent."),
    ("x-request-timeout", "number", "Seconds that the whole answer may take."),
    ("x-strict", "boolean", "Refuses fields that are unknown or cannot be applied, instead of listing them."),
    ("traceparent", "string", "W3C trace context, passed on and returned."),
)


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document; field descriptions come from the field table."""
    schemas: dict[str, Any] = {"Error": _error_schema()}
    for name, model, face in _BODIES.values():
        schema = model.json_schema()
        schemas.update(schema.pop("$defs", {}))
        if face is not None:
            for field in fields_of(face).values():
                schema["properties"][field.name]["description"] = _meaning(field)
        schemas[name] = schema
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Qwenserve", "version": "1", "description": "OpenAI-compatible API of a Qwenserve router."},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def page(operations: Sequence[Operation]) -> str:
    """Returns the documentation page."""
    endpoints = "".join(
        f"<tr><td>{operation.method}</td><td><code>{html.escape(operation.path)}</code></td>"
        f"<td>{html.escape(operation.summary)}</td></tr>"
        for operation in operations
    )
    sections = "".join(
        f"<h2><code>{path}</code></h2><table><tr><th>field</th><th></th><th>meaning</th></tr>{_rows(face)}</table>"
        for path, (_, _, face) in _BODIES.items()
        if face is not None and path.startswith("/v1")
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Qwenserve API</title><style>'
        "body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2rem .6rem;text-align:left}"
        "</style></head><body><h1>Qwenserve API</h1>"
        '<p>The same as data: <a href="/openapi.json">/openapi.json</a></p>'
        f"<table>{endpoints}</table>{sections}</body></html>"
    )


def _rows(face: Face) -> str:
    return "".join(
        f"<tr><td><code>{field.name}</code></td><td>{field.effect.value}</td><td>{html.escape(field.note)}</td></tr>"
        for field in fields_of(face).values()
    )


def _meaning(field: Field) -> str:
    return f"{field.effect.value.capitalize()}. {field.note}"


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "The answer."},
            "default": {
                "description": "An error.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if operation.guarded:
        described["security"] = [{"bearer": []}, {}]
    if "{name}" in operation.path:
        described["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if operation.path in _BODIES:
        described["parameters"] = [
            {"name": name, "in": "header", "required": False, "schema": {"type": kind}, "description": meaning}
            for name, kind, meaning in _HEADERS
        ]
        schema = {"$ref": f"#/components/schemas/{_BODIES[operation.path][0]}"}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _error_schema() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    members = {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text}
    return {"type": "object", "properties": {"error": {"type": "object", "properties": members}}}
