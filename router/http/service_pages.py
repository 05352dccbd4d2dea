"""Pages about the service itself: health, metrics, and its own description."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from qwenserve.router.chat.interface import Backend
from qwenserve.router.http.page.files import ChatPage, wants_page
from qwenserve.router.http.transport.endpoint import NAME, BodySchema, Endpoint
from qwenserve.router.http.transport.errors import ErrorFormat
from qwenserve.router.http.transport.exchange import Exchange
from qwenserve.router.http.transport.field_rows import ID_FORMAT, Field
from qwenserve.router.http.transport.json_body import to_json
from qwenserve.router.http.transport.reply import Reply
from qwenserve.runtime.metrics import RouterMetrics
from qwenserve.runtime.sampling_ranges import RANGES

_HTML = "text/html; charset=utf-8"


class ServicePages:
    """Health, readiness, metrics, the OpenAPI document and a page that shows it. `faces` is what they describe besides
    themselves.
    """

    def __init__(
        self, backend: Backend, metrics: RouterMetrics, faces: Sequence[Endpoint], errors: ErrorFormat
    ) -> None:
        self._backend = backend
        self._metrics = metrics
        self._faces = faces
        self._error_format = errors
        self._document = b""
        self._page = b""
        self._chat_page = ChatPage()

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Returns the pages' rows of the table. What a probe or a scrape asks for wants no key."""
        errors = self._error_format
        return (
            Endpoint("GET", "/openapi.json", "pages", self.openapi, errors),
            Endpoint("GET", "/docs", "pages", self.docs, errors),
            Endpoint("GET", "/", "pages", self.root, errors, guarded=False),
            Endpoint("GET", "/page/{name}", "pages", self._chat_page.file, errors, guarded=False, quiet=True),
            Endpoint("GET", "/healthz", "pages", self.healthz, errors, guarded=False, quiet=True),
            # The names that other servers have for these pages.
            Endpoint("GET", "/health", "pages", self.readyz, errors, guarded=False, quiet=True),
            Endpoint("GET", "/ping", "pages", self.healthz, errors, guarded=False, quiet=True),
            Endpoint("GET", "/version", "pages", self.version, errors),
            Endpoint("GET", "/v1", "pages", self.overview, errors),
            Endpoint("GET", "/v1/", "pages", self.overview, errors),
            Endpoint("GET", "/readyz", "pages", self.readyz, errors, guarded=False, quiet=True),
            Endpoint("GET", "/metrics", "pages", self.metrics, errors, guarded=False, quiet=True),
        )

    async def root(self, exchange: Exchange) -> Reply:
        """The chat page for a browser; where everything is for everybody else."""
        if wants_page(exchange.request.headers.get("Accept")):
            return self._chat_page.start(exchange)
        return await self.overview(exchange)

    async def overview(self, exchange: Exchange) -> Reply:
        """The addresses of all pages."""
        return exchange.reply(to_json({"service": "qwenserve", "api": "/v1", "docs": "/docs", "ready": "/readyz"}))

    async def version(self, exchange: Exchange) -> Reply:
        """The version of this software."""
        return exchange.reply(to_json({"version": metadata.version("qwenserve")}))

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
        # Made once, when it is first asked for: start-up need not wait for it.
        if not self._document:
            listed = await self._backend.list_models(exchange.call())
            vocab_size = max((model.vocab_size for model in listed.models), default=0)
            self._document = to_json(document((*self._faces, *self.endpoints()), vocab_size))
        return exchange.reply(self._document)

    async def docs(self, exchange: Exchange) -> Reply:
        """The OpenAPI document as a page that loads nothing from elsewhere."""
        self._page = self._page or page((*self._faces, *self.endpoints())).encode()
        return exchange.reply(self._page, content_type=_HTML)


_HEADERS = (
    ("x-request-id", {"type": "string"}, "Id of the request in logs and reply; one is made where it is absent."),
    ("x-request-timeout", {"type": "number", "exclusiveMinimum": 0}, "Seconds that the whole answer may take."),
    ("x-strict", {"type": "boolean"}, "Refuses fields that are unknown or cannot be applied, instead of listing them."),
    ("traceparent", {"type": "string"}, "W3C trace context, passed on and returned."),
)


def document(endpoints: Sequence[Endpoint], vocab_size: int) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document, as strict as the service is with a model of `vocab_size` token ids. Field
    descriptions come from the tables of fields, ranges from that of the sampling parameters.
    """
    schemas: dict[str, Any] = {"Error": _error_schema()}
    for body in _bodies(endpoints):
        schema = body.model.json_schema()
        schemas.update(schema.pop("$defs", {}))
        for field in body.fields.values():
            described = schema["properties"][field.name]
            described["description"] = _meaning(field)
            _limit(field, described)
        schemas[body.name] = schema
    _write_limits(schemas, vocab_size)
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Qwenserve", "version": "1", "description": "OpenAI-compatible API of a Qwenserve router."},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


_KEYWORDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def _limit(field: Field, schema: dict[str, Any]) -> None:
    """Writes the range of a sampling parameter into its schema."""
    part, _, name = field.target.partition(".")
    allowed = RANGES.get(name) if part == "sampling" else None
    for kind in schema.get("anyOf", ()):
        if allowed is not None and kind.get("type") in ("integer", "number") and field.name in (*RANGES, "logprobs"):
            kind |= allowed.limits()
            if field.name in ("max_tokens", "top_k"):  # 0 scores a prompt; -1 is off
                kind["ge"] = 0 if field.name == "max_tokens" else -1


def _write_limits(schema: Any, vocab_size: int) -> None:
    """Gives limits their names in JSON Schema, and token ids their largest value."""
    if isinstance(schema, dict):
        for ours, theirs in _KEYWORDS.items():
            if isinstance(schema.get(ours), (int, float)):
                schema[theirs] = schema.pop(ours)
        if schema.get("format") == ID_FORMAT and vocab_size:
            schema["maximum"] = vocab_size - 1
        for inner in schema.values():
            _write_limits(inner, vocab_size)
    elif isinstance(schema, list):
        for inner in schema:
            _write_limits(inner, vocab_size)


def page(endpoints: Sequence[Endpoint]) -> str:
    """Returns the documentation page."""
    rows = "".join(
        f"<tr><td>{endpoint.method}</td><td><code>{html.escape(endpoint.path)}</code></td>"
        f"<td>{html.escape(endpoint.summary)}</td></tr>"
        for endpoint in endpoints
    )
    sections = "".join(
        f"<h2><code>{body.name}</code></h2><table><tr><th>field</th><th></th><th>meaning</th></tr>{_rows(body)}</table>"
        for body in _bodies(endpoints)
        if body.fields
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Qwenserve API</title><style>'
        "body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2rem .6rem;text-align:left}"
        "</style></head><body><h1>Qwenserve API</h1>"
        '<p>The same as data: <a href="/openapi.json">/openapi.json</a></p>'
        f"<table>{rows}</table>{sections}</body></html>"
    )


def _bodies(endpoints: Sequence[Endpoint]) -> list[BodySchema]:
    """Returns the bodies, each once."""
    return list({endpoint.body.name: endpoint.body for endpoint in endpoints if endpoint.body is not None}.values())


def _rows(body: BodySchema) -> str:
    return "".join(
        f"<tr><td><code>{field.name}</code></td><td>{field.effect.value}</td><td>{html.escape(field.note)}</td></tr>"
        for field in body.fields.values()
    )


def _meaning(field: Field) -> str:
    return f"{field.effect.value.capitalize()}. {field.note}"


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": endpoint.summary,
        "responses": {
            "200": {"description": "The answer."},
            "default": {
                "description": "An error.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if endpoint.guarded:
        described["security"] = [{"bearer": []}, {}]
    if NAME in endpoint.path:
        described["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if endpoint.body is not None:
        described["parameters"] = [
            {"name": name, "in": "header", "required": False, "schema": kind, "description": meaning}
            for name, kind, meaning in _HEADERS
        ]
        schema = {"$ref": f"#/components/schemas/{endpoint.body.name}"}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _error_schema() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    members = {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text}
    return {"type": "object", "properties": {"error": {"type": "object", "properties": members}}}
