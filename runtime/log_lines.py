"""What log lines look like, and how they get to a stream."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol, TextIO

from qwenserve.runtime.json_text import new_encoder

# How long a line may wait to be written together with others. A process that is killed loses no more than this.
_TOGETHER_S = 0.05
# What a pipe takes in one piece, so that processes that share one do not write into each other's lines.
_PIPE_BYTES = 4096


_encode = new_encoder()


class Style(Protocol):
    """Makes lines of one process."""

    def line(self, seconds: float, level: int, logger: str, event: str, fields: Mapping[str, Any], trace: str) -> str:
        """Returns a line without its end. `seconds` are since the epoch; `trace` is a traceback, or empty."""


class JsonLines:
    """A JSON object a line. Fields must not be named like what every line has."""

    def __init__(self, tier: str) -> None:
        self._tier = tier

    def line(self, seconds: float, level: int, logger: str, event: str, fields: Mapping[str, Any], trace: str) -> str:
        """See `Style`."""
        if trace:
            fields = {**fields, "traceback": trace}
        head = f'{{"time": "{_timestamp(seconds)}", {_json_head(level, self._tier, logger, event)}'
        return f"{head}, {_encode(fields)[1:]}" if fields else head + "}"


class TextLines:
    """Lines for people; a traceback makes several of one."""

    def __init__(self, tier: str) -> None:
        self._tier = tier

    def line(self, seconds: float, level: int, logger: str, event: str, fields: Mapping[str, Any], trace: str) -> str:
        """See `Style`."""
        told = " ".join(f"{key}={value}" for key, value in fields.items())
        text = f"{_timestamp(seconds)} {_level_name(level):7} {self._tier} {event} {told}"
        return (text + "\n" + trace if trace else text).rstrip()


class LineHandler(logging.Handler):
    """Writes lines to a stream, in their order.

    A line that comes alone is written at once, and so is a warning. At hundreds of requests a second each line would
    cost a system call and wake its reader; so lines that follow another within 50 ms are written together, as many
    as 4,096 bytes hold. That needs a running event loop: without one, and at exit, nothing waits.
    """

    def __init__(self, stream: TextIO, style: Style) -> None:
        super().__init__()
        self._stream = stream
        self._style = style
        self._guard = threading.RLock()
        self._waiting: list[str] = []
        self._waiting_bytes = 0
        self._timer_set = False
        self._last_write = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record of `logging`'s."""
        try:
            fields = getattr(record, "fields", {})
            trace = _TRACEBACKS.formatException(record.exc_info) if record.exc_info else ""
            line = self._style.line(record.created, record.levelno, record.name, record.getMessage(), fields, trace)
            self._take(record.levelno, line)
        except Exception:
            self.handleError(record)

    def write(self, level: int, logger: str, event: str, fields: Mapping[str, Any]) -> None:
        """Writes an event."""
        try:
            self._take(level, self._style.line(time.time(), level, logger, event, fields, ""))
        except Exception:  # a log call must not break what it tells of
            self.handleError(logging.makeLogRecord({"name": logger, "levelno": level, "msg": event}))

    def flush(self) -> None:
        """Writes what waits."""
        with self._guard:
            self._timer_set = False
            self._write_waiting()

    def _take(self, level: int, line: str) -> None:
        # Standard error writes what UTF-8 has not, such as half a surrogate pair, in six characters.
        size = 1 + len(line if line.isascii() else line.encode("utf-8", "backslashreplace"))
        with self._guard:
            if self._waiting_bytes + size > _PIPE_BYTES:
                self._write_waiting()
            self._waiting.append(line)
            self._waiting_bytes += size
            if level >= logging.WARNING or not self._may_wait():
                self._write_waiting()

    def _may_wait(self) -> bool:
        """Whether the line may wait: a timer will write it."""
        if not self._timer_set and time.monotonic() - self._last_write < _TOGETHER_S:
            try:
                asyncio.get_running_loop().call_later(_TOGETHER_S, self.flush)
            except RuntimeError:  # no loop in this thread
                return False
            self._timer_set = True
        return self._timer_set

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        # A finalizer may log in the middle of this.
        lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
        lines.append("")
        self._last_write = time.monotonic()
        try:
            self._stream.write("\n".join(lines))
            self._stream.flush()
        except (OSError, ValueError):  # standard error is gone, and there is nowhere else to say so
            pass


_TRACEBACKS = logging.Formatter()


@lru_cache(maxsize=256)
def _json_head(level: int, tier: str, logger: str, event: str) -> str:
    head = {"level": _level_name(level), "tier": tier, "logger": logger, "event": event}
    return _encode(head)[1:-1]


@lru_cache(maxsize=2)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def _timestamp(seconds: float) -> str:
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03d}Z"


def _level_name(level: int) -> str:
    return logging.getLevelName(level).lower()
