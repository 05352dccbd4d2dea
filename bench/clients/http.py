"""An OpenAI HTTP endpoint: one request at a time per connection, connections kept, one callback per read."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from qwenserve.bench.clients.endpoint import EndpointError, Generation
from qwenserve.bench.clients.http_reply import BadReply, Reply, unchunk
from qwenserve.bench.record import Record
from qwenserve.bench.samples import ChatMessage, Sample
from qwenserve.runtime.client_tls import ClientTls
from qwenserve.runtime.config import ConfigError
from qwenserve.runtime.deadlines import within

_CONNECT_TIMEOUT_S = 10.0


class Target(NamedTuple):
    """Where an HTTP server is. `prefix` is the path in front of `/v1`."""

    host: str
    port: int
    # None: plain text.
    tls: ssl.SSLContext | None
    prefix: str

    @classmethod
    def parse(cls, url: str, tls: ClientTls | None = None) -> Target:
        """Reads `http://host:port/prefix`; `tls` is for https. Raises EndpointError."""
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EndpointError(f"{url!r} is no HTTP address; give http://HOST:PORT")
        try:
            context = (tls or ClientTls()).context() if parts.scheme == "https" else None
        except ConfigError as error:
            raise EndpointError(str(error)) from None
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or (443 if context is not None else 80), context, path)


class _Connection(asyncio.Protocol):
    """One connection. Nothing but `feed` runs per read."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reply: Reply | None = None
        self._done: asyncio.Future[str] | None = None
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        reply = self._reply
        if reply is None:
            self._drop()  # a reply that nobody asked for
            return
        try:
            complete = reply.feed(data, now)
        except BadReply as error:
            self._end(f"bad reply: {error}")
            self._drop()
            return
        if complete:
            self.usable = reply.keep_alive
            self._end("")

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        complete = self._reply is not None and self._reply.ended_by_close() and exc is None
        self._end("" if complete else "connection lost")

    def request(self, data: bytes, reply: Reply) -> asyncio.Future[str]:
        """Sends a request; the future's text is empty when the reply is complete, else what went wrong."""
        assert self._transport is not None
        self._reply = reply
        self._done = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._end("connection lost")
        else:
            self._transport.write(data)
        return self._done

    def close(self) -> None:
        """Ends the connection, and a request under way with it."""
        self._end("closed")
        self._drop()

    def _end(self, problem: str) -> None:
        self._reply = None
        if self._done is not None and not self._done.done():
            self._done.set_result(problem)

    def _drop(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()


class HttpEndpoint:
    """`/v1/completions` or `/v1/chat/completions` of one server."""

    def __init__(
        self, target: Target, *, chat: bool, generation: Generation, key: str = "", timeout_s: float = 600.0
    ) -> None:
        self._target = target
        self._chat = chat
        self._generation = generation
        self._timeout_s = timeout_s
        self._idle: list[_Connection] = []
        self._path = f"{target.prefix}/v1/{'chat/completions' if chat else 'completions'}"
        self._head = request_head(target, self._path, key)
        way = "streamed" if generation.stream else "whole"
        self.description = f"POST {self._path}, {way}, HTTP/1.1 with kept connections"

    def prepare(self, sample: Sample, history: Sequence[ChatMessage] = ()) -> bytes:
        """Returns the request's bytes. Raises EndpointError for a sample that this path cannot carry."""
        body = (chat_body if self._chat else completion_body)(sample, history, self._generation)
        payload = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        return self._head % len(payload) + payload

    async def send(self, prepared: bytes, record: Record, *, keep_text: bool = False) -> None:
        """Sends one request and waits for its end."""
        reply = Reply(record, keep_text=keep_text)
        record.sent = time.perf_counter()
        connection: _Connection | None = None
        try:
            connection = self._kept() or await self._connect()
            # With a new connection the time to connect counts: a caller waits for it, too.
            problem = await within(self._timeout_s, connection.request(prepared, reply))
            record.ended = time.perf_counter()
            record.error = problem
            if not problem:
                reply.finish()
                _without_stream(record, self._generation)
        except asyncio.TimeoutError:
            record.error = "timeout"
        except OSError as error:
            record.error = f"connect: {type(error).__name__}"
        except BadReply as error:
            record.error = f"bad reply: {error}"
        finally:
            record.ended = record.ended or time.perf_counter()
            self._put_back(connection, record)

    async def close(self) -> None:
        """Ends all idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _kept(self) -> _Connection | None:
        """Returns a connection that is open still; servers close those that are idle for long."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def _put_back(self, connection: _Connection | None, record: Record) -> None:
        if connection is None:
            return
        # After an HTTP error the connection is as good as before; after a timeout a reply may still come.
        if connection.usable and record.error != "timeout":
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        target = self._target
        dial = loop.create_connection(_Connection, target.host, target.port, ssl=target.tls)
        _, connection = await within(_CONNECT_TIMEOUT_S, dial)
        return connection


def _without_stream(record: Record, generation: Generation) -> None:
    # A whole answer arrives at once: its end is its first content.
    if not generation.stream and not record.stamps:
        record.arrived(record.ended, 1)


def request_head(target: Target, path: str, key: str) -> bytes:
    """Returns the head of every request, with `%d` where the body's length goes."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {target.host}:{target.port}",
        "Content-Type: application/json",
        "Accept: text/event-stream, application/json",
    ]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*(line.replace("%", "%%") for line in lines), "Content-Length: %d", "", ""]).encode()


def chat_body(sample: Sample, history: Sequence[ChatMessage], generation: Generation) -> dict[str, Any]:
    """Returns the body for `/v1/chat/completions`. Raises EndpointError for token ids, which a chat cannot carry."""
    if sample.token_ids:
        raise EndpointError("a chat endpoint takes text; token ids need the completions endpoint")
    new = sample.messages or (ChatMessage("user", sample.text),)
    messages = [message._asdict() for message in (*history, *new)]
    body: dict[str, Any] = {"messages": messages, **_common(sample, generation)}
    if generation.thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": generation.thinking}
    return body


def completion_body(sample: Sample, history: Sequence[ChatMessage], generation: Generation) -> dict[str, Any]:
    """Returns the body for `/v1/completions`. Raises EndpointError for messages."""
    if sample.messages or history:
        raise EndpointError("a completions endpoint takes text or token ids; messages need the chat endpoint")
    return {"prompt": list(sample.token_ids) or sample.text, **_common(sample, generation)}


def _common(sample: Sample, generation: Generation) -> dict[str, Any]:
    body: dict[str, Any] = {"model": generation.model, "max_tokens": sample.max_tokens, "stream": generation.stream}
    if generation.temperature is not None:
        body["temperature"] = generation.temperature
    if generation.exact_lengths:
        body["ignore_eos"] = True
    if generation.stream:
        body["stream_options"] = {"include_usage": True}
    return body


async def call_json(target: Target, method: str, path: str, body: Any = None, *, key: str = "") -> Any:
    """Calls one JSON method, outside of any measurement. Raises EndpointError with status and reason."""
    payload = b"" if body is None else json.dumps(body).encode()
    head = request_head(target, target.prefix + path, key).replace(b"POST", method.encode(), 1)
    try:
        dial = asyncio.open_connection(target.host, target.port, ssl=target.tls, limit=1 << 26)
        reader, writer = await within(_CONNECT_TIMEOUT_S, dial)
    except (OSError, asyncio.TimeoutError) as error:
        raise EndpointError(f"cannot reach {target.host}:{target.port}: {type(error).__name__}; is it up?") from None
    try:
        writer.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % len(payload) + payload)
        raw = await within(_CONNECT_TIMEOUT_S, reader.read(-1))
    except (OSError, asyncio.TimeoutError) as error:
        raise EndpointError(f"{method} {path}: {type(error).__name__}") from None
    finally:
        writer.close()
    return _read_json(raw, f"{method} {path}")


def _read_json(raw: bytes, what: str) -> Any:
    head, _, body = raw.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if b"transfer-encoding: chunked" in head.lower():
        body = unchunk(body)
    if status != [b"200"]:
        raise EndpointError(
            f"{what}: status {b''.join(status).decode() or 'none'}: {body[:200].decode('utf-8', 'replace')}"
        )
    try:
        return json.loads(body)
    except ValueError:
        raise EndpointError(f"{what}: the answer is no JSON: {body[:80]!r}") from None
