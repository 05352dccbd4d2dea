"""One request and its reply: identity, headers, outcome. What the access log and the metrics are made of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from aiohttp import web

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.call import Call, request_id, strictness, traceparent
from qwenserve.router.http.transport.errors import ErrorFormat, error_headers
from qwenserve.router.http.transport.keep_alives import KeepAlives
from qwenserve.router.http.transport.reply import Reply
from qwenserve.runtime.errors import InvalidRequest, ServiceError
from qwenserve.runtime.secret import Secret
from qwenserve.type.v1 import sampling_pb2

_JSON = "application/json"
_MAX_LISTED = 32
_CACHE_NAMES: Mapping[int, str] = {
    chat_pb2.CACHE_STATUS_HIT: "hit",
    chat_pb2.CACHE_STATUS_JOINED: "joined",
    chat_pb2.CACHE_STATUS_MISS: "miss",
    chat_pb2.CACHE_STATUS_SIMILAR: "similar",
}


# From a key's id to the headers that tell its limits.
LimitHeaders = Callable[[str], Mapping[str, str]]


_NO_KEY = Secret()
_NO_HEADERS: Mapping[str, str] = {}


class Exchange:
    """The state of one request while it is served.

    `errors` is how its face tells errors. `handed_over` says that the router has the request: it logs and counts its
    outcome, for all faces alike. `keep_alives` are those of all streams. `name` is what stands for `{name}` in the
    endpoint's path.
    """

    __slots__ = (
        "authorization",
        "began",
        "cache",
        "cors",
        "error",
        "errors",
        "handed_over",
        "id_header",
        "ignored",
        "keep_alives",
        "key_id",
        "key_limits",
        "kind",
        "limits",
        "model",
        "name",
        "request",
        "request_id",
        "similar",
        "stream",
        "strict",
        "traceparent",
        "usage",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        kind: str,
        errors: ErrorFormat,
        keep_alives: KeepAlives,
        *,
        strict: bool,
        name: str = "",
    ) -> None:
        headers = request.headers
        self.request = request
        self.errors = errors
        self.keep_alives = keep_alives
        self.kind = kind
        self.name = name
        self.began = time.monotonic()
        self.request_id = request_id(headers.get("x-request-id"))
        self.traceparent = traceparent(headers.get("traceparent"))
        self.strict = strict
        self.key_id = ""
        # The caller's key as it was sent.
        self.authorization = _NO_KEY
        # What a router told of the key's limits, where this process knows none itself.
        self.key_limits: Mapping[str, str] = _NO_HEADERS
        self.limits: LimitHeaders | None = None
        self.id_header = ""
        self.stream = False
        self.model = ""
        self.handed_over = False
        self.error: ServiceError | None = None
        self.usage: sampling_pb2.Usage | None = None
        self.ignored: tuple[str, ...] = ()
        # What lets a web page read the reply, where it may.
        self.cors: Mapping[str, str] = _NO_HEADERS
        # What `x-cache` says; empty where kept answers were not asked for.
        self.cache = ""
        # The earlier prompt whose answer this is, if another one.
        self.similar: chat_pb2.SimilarPrompt | None = None

    def read_headers(self) -> None:
        """Reads the headers that can be wrong. Raises InvalidRequest."""
        given = strictness(self.request.headers.get("x-strict"))
        if given is not None:
            self.strict = given

    def call(self) -> Call:
        """Returns what travels with the call. Raises InvalidRequest for an unreadable deadline."""
        given = self.request.headers.get("x-request-timeout")
        deadline = None if given is None else self.began + _seconds(given)
        return Call(
            self.request_id,
            deadline,
            self.traceparent,
            self.key_id,
            self.strict,
            authorization=self.authorization,
        )

    def ignore(self, names: Sequence[str]) -> None:
        """Notes fields without effect. Raises InvalidRequest where the caller wants none."""
        if names and self.strict:
            listed = ", ".join(names[:_MAX_LISTED])
            raise InvalidRequest(f"unknown or not applied, and the request is strict: {listed}", param=names[0])
        self.note_ignored(names)

    def note_ignored(self, names: Sequence[str]) -> None:
        """Notes fields that the router could not apply as asked."""
        if names:
            self.ignored += tuple(name for name in names if name not in self.ignored)

    def note_start(self, start: chat_pb2.StreamStart) -> None:
        """Notes what the beginning of an answer says for the reply's head."""
        self.note_ignored(start.ignored_params)
        if self.limits is None and start.key_limits:
            self.key_limits = dict(start.key_limits)
        if kept := start.cache:
            self.cache = _CACHE_NAMES.get(kept, "")
            if kept == chat_pb2.CACHE_STATUS_SIMILAR:
                self.similar = start.similar

    def headers(self, content_type: str = _JSON) -> dict[str, str]:
        """Returns the headers of a reply."""
        headers = {"Content-Type": content_type, "x-request-id": self.request_id}
        if self.cors:
            headers |= self.cors
        if self.key_id and self.limits is not None:
            headers |= self.limits(self.key_id)
        if self.key_limits:
            headers |= self.key_limits
        if self.id_header:
            headers[self.id_header] = self.request_id
        if self.traceparent:
            headers["traceparent"] = self.traceparent
        if self.cache:
            headers["x-cache"] = self.cache
        if self.similar is not None:
            headers["x-cache-match"] = self.similar.id
            headers["x-cache-score"] = f"{self.similar.score:.3f}"
        if self.ignored:
            # Names come from the caller and may hold anything.
            names = [quote(name[:80], safe="[].-_") for name in self.ignored[:_MAX_LISTED]]
            if len(self.ignored) > _MAX_LISTED:
                names.append(f"and-{len(self.ignored) - _MAX_LISTED}-more")
            headers["x-ignored-params"] = ",".join(names)
        if self.usage is not None and self.usage.continued_legs:
            headers["x-continued"] = str(self.usage.continued_legs)
        return headers

    def reply(self, body: bytes, *, status: int = 200, content_type: str = _JSON) -> Reply:
        """Returns a whole reply."""
        return Reply(status, self.headers(content_type), body)

    def reply_allowed(self, verbs: str) -> Reply:
        """Returns the reply that names verbs and holds nothing else."""
        return Reply(204, {**self.headers(), "Allow": verbs})

    def refuse(self, error: ServiceError, more: Mapping[str, str] | None = None) -> Reply:
        """Returns the reply for an error."""
        # Cleared: the traceback's frames refer to this exchange, which would form a reference cycle with the error.
        self.error = error.with_traceback(None)
        headers = {**self.headers(), **error_headers(error), **(more or {})}
        return Reply(error.http_status, headers, self.errors.body(error, self.request_id))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest(
            "the header x-request-timeout must be a number of seconds above 0", param="x-request-timeout"
        )
    return seconds
