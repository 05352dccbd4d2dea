"""The one wrapper around all endpoints: key, headers, the face's error form, log line, count.

It is a handler for aiohttp's low-level server. An `Application` would bring its own router, signals and middlewares, of
which nothing is needed here; they cost a tenth of a small request's time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from aiohttp import web

from qwenserve.router.http.transport.endpoint import NAME, Endpoint
from qwenserve.router.http.transport.errors import ErrorFormat, defect
from qwenserve.router.http.transport.exchange import Exchange, LimitHeaders
from qwenserve.router.http.transport.keep_alives import KeepAlives
from qwenserve.router.http.transport.origins import Origins
from qwenserve.router.http.transport.reply import Reply
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.errors import ForbiddenOrigin, MethodNotAllowed, NotFound, ServiceError
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.metrics import RouterMetrics
from qwenserve.runtime.secret import Secret

_log = EventLog("http")


class Dispatcher:
    """Serves every request from one table of endpoints. `elsewhere` is the error form of paths that belong to none."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        elsewhere: ErrorFormat,
        *,
        strict: bool,
        keys: KeyRing,
        metrics: RouterMetrics,
        origins: Origins,
        limits: LimitHeaders | None = None,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.errors_elsewhere = elsewhere
        self._strict = strict
        self._origins = origins
        self._keys = keys
        self._limits = limits
        self._errors = metrics.errors
        self._replies = metrics.counters(
            "qwenserve_http_requests",
            "Finished HTTP requests; status 499 is a client that went away, reason is empty without an error.",
            ["kind", "status", "reason"],
        )
        self._draining = False
        self._keep_alives = KeepAlives()
        self._busy: dict[web.RequestHandler, tuple[Endpoint, Exchange]] = {}
        self._by_path = {(verb, e.path): e for e in self.endpoints if NAME not in e.path for verb in e.verbs}
        self._by_stem = [(verb, e) for e in self.endpoints if NAME in e.path for verb in e.verbs]

    def note_unreadable(self, error: ServiceError, request_id: str) -> None:
        """Counts and logs bytes that could not be read as a request."""
        self._replies.labels("other", str(error.http_status), error.reason).inc()
        self._errors.labels(error.reason).inc()
        _log.info("request", request_id=request_id, kind="other", status=error.http_status, error=error.reason)

    def drain(self) -> None:
        """From now on every reply closes its connection."""
        self._draining = True

    def is_busy(self, connection: web.RequestHandler) -> bool:
        """Whether a request of this connection is under way."""
        return connection in self._busy

    @property
    def receiving(self) -> bool:
        """Whether a request for an answer has begun to arrive, and the router does not have it yet."""
        return any(endpoint.generates and not exchange.handed_over for endpoint, exchange in self._busy.values())

    async def __call__(self, request: web.BaseRequest) -> Reply:
        """Answers one request. Raises ConnectionError where the client has gone."""
        endpoint, name = self._find(request.method, request.path)
        exchange = Exchange(request, endpoint.kind, endpoint.errors, self._keep_alives, strict=self._strict, name=name)
        exchange.id_header = endpoint.id_header
        if endpoint.guarded:
            exchange.limits = self._limits
        status = 499  # the client went away, unless something better is known
        connection = request.protocol
        self._busy[connection] = (endpoint, exchange)
        try:
            reply = await self._answer(endpoint, exchange)
            status = reply.status
            return reply
        finally:
            self._busy.pop(connection, None)
            self._record(endpoint, exchange, status)

    def _find(self, verb: str, path: str) -> tuple[Endpoint, str]:
        """Returns the endpoint and the variable part of the path."""
        endpoint = self._by_path.get((verb, path))
        if endpoint is not None:
            return endpoint, ""
        for known, endpoint in self._by_stem:
            if known == verb and endpoint.matches(path):
                # Model names contain slashes, and a path may contain anything, line breaks included.
                return endpoint, path[len(endpoint.stem) :]
        return Endpoint("*", "", "other", self._no_such_endpoint, self._errors_at(path)), ""

    def _errors_at(self, path: str) -> ErrorFormat:
        """Returns the error form of the face that a path without endpoint belongs to: who calls it reads that one."""
        near = [endpoint for endpoint in self.endpoints if endpoint.matches(path) or _is_under(path, endpoint)]
        return near[0].errors if near else self.errors_elsewhere

    async def _answer(self, endpoint: Endpoint, exchange: Exchange) -> Reply:
        headers = exchange.request.headers
        try:
            if why := self._origins.refusal(headers):
                raise ForbiddenOrigin(f"{why}; set http.allowed_origins, or keys")
            if "Origin" in headers:
                exchange.cors = self._origins.cors(headers)
                if exchange.request.method == "OPTIONS" and (told := self._origins.preflight(headers)):
                    return Reply(204, {**exchange.headers(), **told})
            if endpoint.guarded:
                authorization = _authorization(exchange.request)
                exchange.key_id = self._keys.check(authorization)
                if authorization:
                    exchange.authorization = Secret(authorization)
            exchange.read_headers()
            reply = await endpoint.answer(exchange)
        except ServiceError as error:
            reply = exchange.refuse(error, _allow(error))
        except ConnectionError:
            raise  # the client went away; aiohttp closes up
        except Exception as fault:
            exchange.handed_over = False  # the router failed before it could log the outcome
            _log.error("request_failed", request_id=exchange.request_id, exc_info=fault)
            reply = exchange.refuse(defect())
        if self._draining:
            reply.force_close()
        return reply

    async def _no_such_endpoint(self, exchange: Exchange) -> Reply:
        """404, 405 with the allowed verbs, or the verbs alone for OPTIONS. No CORS headers: browsers stay out."""
        path = exchange.request.path
        allowed = sorted({verb for endpoint in self.endpoints if endpoint.matches(path) for verb in endpoint.verbs})
        if not allowed:
            raise NotFound(f"no such path: {path[:200]}")
        if exchange.request.method == "OPTIONS":
            return exchange.reply_allowed(", ".join([*allowed, "OPTIONS"]))
        raise MethodNotAllowed(
            f"{exchange.request.method} is not possible here; use {' or '.join(allowed)}",
            metadata={"allow": ", ".join([*allowed, "OPTIONS"])},
        )

    def _record(self, endpoint: Endpoint, exchange: Exchange, status: int) -> None:
        error = exchange.error
        reason = "" if error is None else error.reason
        self._replies.labels(endpoint.kind, str(status), reason).inc()
        if reason and not exchange.handed_over:
            self._errors.labels(reason).inc()
        # One event a request. For requests that reached the router, its own `answer` event says more.
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
        if endpoint.generates:
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


def _is_under(path: str, endpoint: Endpoint) -> bool:
    return path.startswith(f"{endpoint.path}/") and endpoint.path != "/"


def _authorization(request: web.BaseRequest) -> str | None:
    """Returns the key as `Authorization` has it; Anthropic's clients send it as `x-api-key`."""
    given = request.headers.get("Authorization")
    if given is None and (key := request.headers.get("x-api-key")) is not None:
        return f"Bearer {key}"
    return given


def _allow(error: ServiceError) -> dict[str, str]:
    return {"Allow": error.metadata["allow"]} if isinstance(error, MethodNotAllowed) else {}
