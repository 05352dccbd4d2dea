"""One HTTP/1.1 reply, parsed without I/O and with as little work per streamed event as can be.

A streamed answer is not parsed event by event: that would cost the client more than the server. Every event begins
with a line `data:`, and a line break cannot occur inside JSON, so counting these beginnings counts events. The first
events are parsed until one carries content, which gives the time to the first token; the last ones are parsed at the
end for finish reason, usage and errors, and those without content are taken back from the count.

`feed` takes what was read and the time it was read; it returns True when the reply is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from qwenserve.bench.record import Record

_MARK = b"\ndata:"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
# Bytes kept from the last read: an event's mark, or the last chunk's line, may have begun in them.
_OVERLAP = 6
_MAX_HEAD_BYTES = 64 * 1024
# A longer answer keeps only its last pieces: enough for the events that end it.
_MAX_KEPT_BYTES = 1 << 20
_KEPT_PIECES = 16


class BadReply(Exception):
    """The reply is not HTTP, or not what an OpenAI endpoint sends."""


class Reply:
    """Parses one reply into `record`. `keep_text` also collects the answer's text, at the end."""

    __slots__ = (
        "_body",
        "_chunked",
        "_content_seen",
        "_head",
        "_kept_bytes",
        "_length",
        "_marks",
        "_pieces",
        "_previous_end",
        "_record",
        "_streamed",
        "keep_alive",
        "keep_text",
        "status",
    )

    def __init__(self, record: Record, *, keep_text: bool = False) -> None:
        self._record = record
        self.keep_text = keep_text
        self.status = 0
        self.keep_alive = True
        self._head: bytes | None = b""
        self._length: int | None = None
        self._chunked = False
        self._streamed = False
        self._body = 0
        # A body that starts with `data:` has its first mark completed by this line break.
        self._previous_end = b"\n"
        self._pieces: list[bytes] = []
        self._kept_bytes = 0
        self._content_seen = False
        self._marks = 0

    def feed(self, data: bytes, now: float) -> bool:
        """Takes what was read at `now`; returns whether the reply is complete. Raises BadReply."""
        if self._head is not None:
            data = self._read_head(data)
            if self._head is not None:
                return False
        self._keep(data)
        self._body += len(data)
        window = self._previous_end + data
        if self._streamed:
            count = window.count(_MARK) - self._previous_end.count(_MARK)
            if not self._content_seen:
                self._look_for_content(count, now)
            elif count:
                self._record.arrived(now, count)
        self._previous_end = window[-_OVERLAP:]
        if self._chunked:
            return window.endswith(_LAST_CHUNK) or window == b"\n0\r\n\r\n"
        return self._length is not None and self._body >= self._length

    def ended_by_close(self) -> bool:
        """Whether the connection's end completes the reply."""
        return self._head is None and not self._chunked and self._length is None

    def finish(self) -> None:
        """Reads what the end of a complete reply tells. Raises BadReply."""
        if self.status != 200:
            self._record.error = _error_reason(self.status, _json(self._whole()))
        elif self._streamed:
            self._finish_stream()
        else:
            self._finish_whole()

    def _read_head(self, data: bytes) -> bytes:
        joined = (self._head or b"") + data
        head, found, rest = joined.partition(b"\r\n\r\n")
        if not found:
            if len(joined) > _MAX_HEAD_BYTES:
                raise BadReply("head too long")
            self._head = joined
            return b""
        lines = head.split(b"\r\n")
        try:
            self.status = int(lines[0].split(b" ", 2)[1])
        except (IndexError, ValueError):
            raise BadReply(f"no HTTP reply: {lines[0][:40]!r}") from None
        if self.status == 100:
            self._head = b""
            return self._read_head(rest)
        headers = dict(_header(line) for line in lines[1:])
        self._chunked = b"chunked" in headers.get(b"transfer-encoding", b"").lower()
        if not self._chunked and b"content-length" in headers:
            self._length = int(headers[b"content-length"])
        self._streamed = self.status == 200 and headers.get(b"content-type", b"").startswith(b"text/event-stream")
        self.keep_alive = headers.get(b"connection", b"").lower() != b"close"
        self._head = None
        return rest

    def _keep(self, data: bytes) -> None:
        self._pieces.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes > _MAX_KEPT_BYTES and self._streamed and not self.keep_text:
            del self._pieces[:-_KEPT_PIECES]
            self._kept_bytes = sum(map(len, self._pieces))

    def _look_for_content(self, count: int, now: float) -> None:
        self._marks += count
        # Everything so far: a few hundred bytes, until the first content.
        events = self._events(b"".join(self._pieces))
        first = next((i for i, event in enumerate(events) if has_content(event)), None)
        if first is not None:
            self._content_seen = True
            self._record.arrived(now, self._marks - first)

    def _events(self, raw: bytes) -> Iterator[Mapping[str, Any]]:
        """Yields the complete events of a body from its start; `[DONE]` as an empty one."""
        body = unchunk(raw) if self._chunked else raw
        complete = body[: body.rfind(b"\n") + 1]
        for line in complete.split(b"\n"):
            if line.startswith(b"data:"):
                yield _event(line[5:])

    def _last_events(self) -> list[Mapping[str, Any]]:
        """Returns the last events, in order. Raises BadReply."""
        raw = b"".join(self._pieces)
        start = len(raw)
        for _ in range(8):
            start = max(0, raw.rfind(_MARK, 0, start))
        try:
            lines = (line for line in raw[start:].split(b"\n") if line.startswith(b"data:"))
            return [_event(line[5:]) for line in lines]
        except BadReply:
            # An event that is cut by a chunk's border: the whole body has to be put together.
            return list(self._events(raw))[-8:]

    def _finish_stream(self) -> None:
        record = self._record
        last = self._last_events()
        if not last or last[-1]:
            record.error = "stream ended without [DONE]"
        for event in last:
            self._take_ends(event)
        if self._content_seen:
            trailing = next((i for i, event in enumerate(reversed(last)) if has_content(event)), len(last))
            record.drop_last_events(trailing)
        if self.keep_text:
            record.text = "".join(content(event) for event in self._events(b"".join(self._pieces)))

    def _finish_whole(self) -> None:
        answer = _json(self._whole())
        if not isinstance(answer, dict) or "choices" not in answer:
            raise BadReply("status 200 without an answer")
        self._take_ends(answer)
        if self.keep_text:
            message = answer["choices"][0]
            self._record.text = message.get("text") or (message.get("message") or {}).get("content") or ""

    def _take_ends(self, event: Mapping[str, Any]) -> None:
        record = self._record
        if error := event.get("error"):
            record.error = f"in stream: {_error_name(error)}"
        for choice in event.get("choices") or ():
            record.finish_reason = choice.get("finish_reason") or record.finish_reason
        usage = event.get("usage")
        if usage:
            record.prompt_tokens = usage.get("prompt_tokens") or 0
            record.completion_tokens = usage.get("completion_tokens") or 0
            details = usage.get("prompt_tokens_details") or {}
            record.cached_tokens = details.get("cached_tokens")

    def _whole(self) -> bytes:
        raw = b"".join(self._pieces)
        return unchunk(raw) if self._chunked else raw


def has_content(event: Mapping[str, Any]) -> bool:
    """Whether an event carries something generated: text, reasoning or a tool call."""
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if choice.get("text") or any(
            delta.get(key) for key in ("content", "reasoning_content", "reasoning", "tool_calls")
        ):
            return True
    return False


def content(event: Mapping[str, Any]) -> str:
    """Returns the text that an event adds to the answer; reasoning is no part of it."""
    return "".join(
        choice.get("text") or (choice.get("delta") or {}).get("content") or "" for choice in event.get("choices") or ()
    )


def unchunk(raw: bytes) -> bytes:
    """Takes a chunked body apart; what comes after its last complete chunk is left out. Raises BadReply."""
    parts = []
    at = 0
    while (end := raw.find(b"\r\n", at)) >= 0:
        try:
            size = int(raw[at:end].split(b";", 1)[0], 16)
        except ValueError:
            raise BadReply(f"bad chunk size {raw[at:end][:20]!r}") from None
        if not size or end + 2 + size > len(raw):
            break
        parts.append(raw[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(parts)


def _event(payload: bytes) -> Mapping[str, Any]:
    payload = payload.strip()
    if payload == b"[DONE]":
        return {}
    event = _json(payload)
    if not isinstance(event, dict):
        raise BadReply(f"an event that is no JSON object: {payload[:60]!r}")
    return event


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.strip().lower(), value.strip()


def _error_reason(status: int, body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else None
    name = _error_name(error)
    return f"HTTP {status} {name}".rstrip()


def _error_name(error: Any) -> str:
    # A message may hold numbers of its own; code and type group like failures.
    if isinstance(error, dict):
        return str(error.get("code") or error.get("type") or error.get("message") or "")[:80]
    return str(error or "")[:80]
