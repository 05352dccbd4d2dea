"""One event a line on standard error: a name with fields, never a sentence with values pasted in.

Prompt and answer text must not be passed to a log call.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal

_ROOT = "qwenserve"


def configure_logs(level: str, style: Literal["json", "text"], tier: str) -> None:
    """Sends all events of this process to standard error. Called once, by `main`."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_JsonFormatter(tier) if style == "json" else _TextFormatter(tier))
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(level.upper())


class EventLog:
    """Writes events. `bind` returns a log that adds fields to each of them."""

    __slots__ = ("_fields", "_logger")

    def __init__(self, name: str, fields: Mapping[str, Any] | None = None) -> None:
        self._logger = logging.getLogger(f"{_ROOT}.{name}")
        self._fields = dict(fields or {})

    def bind(self, **fields: Any) -> EventLog:
        """Returns a log whose events also carry `fields`."""
        bound = EventLog.__new__(EventLog)
        bound._logger = self._logger
        bound._fields = {**self._fields, **fields}
        return bound

    @property
    def shows_info(self) -> bool:
        """Whether `info` writes anything: asked where putting the fields together is worth saving."""
        return self._logger.isEnabledFor(logging.INFO)

    def debug(self, event: str, **fields: Any) -> None:
        """Writes an event for developers."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Writes an event of normal life."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Writes an event that an operator should look at some time."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        """Writes an event that an operator should look at now; `exc_info` adds the traceback."""
        self._write(logging.ERROR, event, fields, exc_info)

    def _write(self, level: int, event: str, fields: Mapping[str, Any], error: BaseException | None = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={"fields": {**self._fields, **fields}}, exc_info=error)


class _JsonFormatter(logging.Formatter):
    def __init__(self, tier: str) -> None:
        super().__init__()
        self._tier = tier

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "tier": self._tier,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _TextFormatter(logging.Formatter):
    def __init__(self, tier: str) -> None:
        super().__init__()
        self._tier = tier

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={value}" for key, value in getattr(record, "fields", {}).items())
        line = f"{_timestamp(record.created)} {record.levelname.lower():7} {self._tier} {record.getMessage()} {fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line.rstrip()


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
