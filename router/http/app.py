"""The shim: its table of endpoints, and the one wrapper around all of them.

It is a handler for aiohttp's low-level server. An `Application` would bring its own router, signals and middlewares, of
which nothing is needed here: a tenth of what a small request costs there.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from qwenserve.router.http.backend import Backend
from qwenserve.router.http.errors import defect
from qwenserve.router.http.exchange import Exchange
from qwenserve.router.http.generation import GenerationEndpoints
from qwenserve.router.http.pages import Operation, PageEndpoints
from qwenserve.router.http.reply import Reply
from qwenserve.router.http.texts import TextEndpoints
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.errors import MethodNotAllowed, NotFound, ServiceError
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.metrics import RouterMetrics

_log = EventLog("http")

_NAME = "{name}"


class _Endpoint(NamedTuple):
    """One endpoint. `quiet` ones are logged for developers only: probes and scrapes come every few seconds."""

    method: str
    path: str
    kind: str
    answer: Callable[[Exchange], Awaitable[Reply]]
    guarded: bool
    quiet: bool


class Shim:
    """Serves every request: key, headers, endpoint, error shape, log line, count. All endpoints but health, readiness
    and metrics want a key where keys are set.
    """

    def __init__(
        self, backend: Backend, config: HttpConfig, *, strict: bool, keys: KeyRing, metrics: RouterMetrics
    ) -> None:
        self._strict = strict
        self._keys = keys
        self._errors = metrics.errors
        self._replies = metrics.counters(
            "qwenserve_http_requests",
            "Finished HTTP requests; status 499 is a client that went away, reason is empty without an error.",
            ["kind", "status", "reason"],
        )
        self._draining = False
        self._busy: set[web.RequestHandler] = set()
        operations: list[Operation] = []
        generation = GenerationEndpoints(backend, config)
        texts = TextEndpoints(backend, config)
        pages = PageEndpoints(backend, metrics, operations)
        self.endpoints = (
            _guarded("POST", "/v1/chat/completions", "chat", generation.chat),
            _guarded("POST", "/v1/completions", "completion", generation.completion),
            _guarded("GET", "/v1/models", "models", texts.list_models),
            _guarded("GET", "/v1/models/{name}", "models", texts.get_model),
            _guarded("POST", "/tokenize", "tokenize", texts.tokenize),
            _guarded("POST", "/detokenize", "detokenize", texts.detokenize),
            _guarded("POST", "/explain", "explain", texts.explain),
            _guarded("GET", "/openapi.json", "pages", pages.openapi),
            _guarded("GET", "/docs", "pages", pages.docs),
            _guarded("GET", "/", "pages", pages.root),
            _open("/healthz", pages.healthz),
            _open("/readyz", pages.readyz),
            _open("/metrics", pages.metrics),
        )
        operations += [
            Operation(e.method, e.path, (e.answer.__doc__ or "").partition("\n")[0], e.guarded) for e in self.endpoints
        ]
        self._by_path = {(verb, e.path): e for e in self.endpoints if _NAME not in e.path for verb in _verbs(e)}
        self._by_stem = [(verb, e) for e in self.endpoints if _NAME in e.path for verb in _verbs(e)]
        self._elsewhere = _Endpoint("*", "", "other", self._no_such_endpoint, guarded=False, quiet=False)

    def drain(self) -> None:
        """From now on every reply closes its connection."""
        self._draining = True

    def is_busy(self, connection: web.RequestHandler) -> bool:
        """Whether a request of this connection is under way."""
        return connection in self._busy

    async def __call__(self, request: web.BaseRequest) -> Reply:
        """Answers one request. Raises ConnectionError where the client has gone."""
        endpoint, name = self._find(request.method, request.path)
        exchange = Exchange(request, endpoint.kind, strict=self._strict, name=name)
        status = 499  # the client went away, unless something better is known
        connection = request.protocol
        self._busy.add(connection)
        try:
            reply = await self._answer(endpoint, exchange)
            status = reply.status
            return reply
        finally:
            self._busy.discard(connection)
            self._record(endpoint, exchange, status)

    def _find(self, verb: str, path: str) -> tuple[_Endpoint, str]:
        """Returns the endpoint and what its path leaves open."""
        endpoint = self._by_path.get((verb, path))
        if endpoint is not None:
            return endpoint, ""
        for known, endpoint in self._by_stem:
            if known == verb and _matches(endpoint, path):
                # Model names contain slashes, and a path may contain anything, line breaks included.
                return endpoint, path[len(_stem(endpoint)) :]
        return self._elsewhere, ""

    async def _answer(self, endpoint: _Endpoint, exchange: Exchange) -> Reply:
        try:
            if endpoint.guarded:
                exchange.key_id = self._keys.check(exchange.request.headers.get("Authorization"))
            exchange.read_headers()
            reply = await endpoint.answer(exchange)
        except ServiceError as error:
            reply = exchange.refuse(error, _allow(error))
        except ConnectionError:
            raise  # the client went away; aiohttp closes up
        except Exception as fault:
            exchange.handed_over = False  # whoever had it did not get to telling
            _log.error("request_failed", request_id=exchange.request_id, exc_info=fault)
            reply = exchange.refuse(defect())
        if self._draining:
            reply.force_close()
        return reply

    async def _no_such_endpoint(self, exchange: Exchange) -> Reply:
        """404, 405 with the allowed verbs, or the verbs alone for OPTIONS. No CORS headers: browsers stay out."""
        path = exchange.request.path
        allowed = sorted({verb for endpoint in self.endpoints if _matches(endpoint, path) for verb in _verbs(endpoint)})
        if not allowed:
            raise NotFound(f"no such path: {path[:200]}")
        if exchange.request.method == "OPTIONS":
            return exchange.reply_allowed(", ".join([*allowed, "OPTIONS"]))
        raise MethodNotAllowed(
            f"{exchange.request.method} is not possible here; use {' or '.join(allowed)}",
            metadata={"allow": ", ".join([*allowed, "OPTIONS"])},
        )

    def _record(self, endpoint: _Endpoint, exchange: Exchange, status: int) -> None:
        error = exchange.error
        reason = "" if error is None else error.reason
        self._replies.labels(endpoint.kind, str(status), reason).inc()
        if reason and not exchange.handed_over:
            self._errors.labels(reason).inc()
        # One event a request: of what the router has taken, its own `answer` event tells more.
        quiet = endpoint.quiet or exchange.handed_over
        if not (_log.shows_debug if quiet else _log.shows_info):
            return
        fields = {
            "request_id": exchange.request_id,
            "kind": endpoint.kind,
            "method": exchange.request.method,
            "path": exchange.request.path[:200],
            "status": status,
            "duration_ms": round((time.monotonic() - exchange.began) * 1000, 3),
        }
        if endpoint.kind in ("chat", "completion"):
            fields |= {"model": exchange.model[:200], "stream": exchange.stream}
        if exchange.usage is not None:
            fields["prompt_tokens"] = exchange.usage.prompt_tokens
            fields["completion_tokens"] = exchange.usage.completion_tokens
        if reason:
            fields["error"] = reason
        if exchange.key_id:
            fields["key"] = exchange.key_id
        if exchange.traceparent:
            fields["traceparent"] = exchange.traceparent
        write = _log.debug if quiet else _log.info
        write("request", **fields)


def _guarded(method: str, path: str, kind: str, answer: Callable[[Exchange], Awaitable[Reply]]) -> _Endpoint:
    return _Endpoint(method, path, kind, answer, guarded=True, quiet=False)


def _open(path: str, answer: Callable[[Exchange], Awaitable[Reply]]) -> _Endpoint:
    return _Endpoint("GET", path, "pages", answer, guarded=False, quiet=True)


def _verbs(endpoint: _Endpoint) -> tuple[str, ...]:
    return ("GET", "HEAD") if endpoint.method == "GET" else (endpoint.method,)


def _stem(endpoint: _Endpoint) -> str:
    return endpoint.path.partition(_NAME)[0]


def _matches(endpoint: _Endpoint, path: str) -> bool:
    stem = _stem(endpoint)
    return path.startswith(stem) and len(path) > len(stem) if _NAME in endpoint.path else path == endpoint.path


def _allow(error: ServiceError) -> dict[str, str]:
    return {"Allow": error.metadata["allow"]} if isinstance(error, MethodNotAllowed) else {}
