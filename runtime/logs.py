"""One event a line on standard error: a name with fields, never a sentence with values pasted in.

Prompt and answer text must not be passed to a log call.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Literal

from qwenserve.runtime.log_lines import JsonLines, LineHandler, TextLines

_ROOT = logging.getLogger()
_OURS = logging.getLogger("qwenserve")


def configure_logs(level: str, style: Literal["json", "text"], tier: str) -> None:
    """Sends all events of this process to standard error. Called once, by `main`."""
    _ROOT.handlers[:] = [LineHandler(sys.stderr, JsonLines(tier) if style == "json" else TextLines(tier))]
    _ROOT.setLevel(logging.WARNING)
    _OURS.setLevel(level.upper())


def flush_logs() -> None:
    """Writes lines that wait to be written together. After the event loop's end nothing else does until the exit."""
    for handler in _ROOT.handlers:
        handler.flush()


class EventLog:
    """Writes events. `bind` returns a log that adds fields to each of them."""

    __slots__ = ("_fields", "_logger")

    def __init__(self, name: str, fields: Mapping[str, Any] | None = None) -> None:
        self._logger = _OURS.getChild(name)
        self._fields = dict(fields or {})

    def bind(self, **fields: Any) -> EventLog:
        """Returns a log that adds `fields` to its events."""
        bound = EventLog.__new__(EventLog)
        bound._logger = self._logger
        bound._fields = {**self._fields, **fields}
        return bound

    @property
    def shows_debug(self) -> bool:
        """Whether `debug` writes anything: asked where putting the fields together is worth saving."""
        return self._logger.isEnabledFor(logging.DEBUG)

    @property
    def shows_info(self) -> bool:
        """Whether `info` writes anything."""
        return self._logger.isEnabledFor(logging.INFO)

    def debug(self, event: str, **fields: Any) -> None:
        """Writes an event for developers."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Writes an event of normal life."""
        self._write(logging.INFO, event, fields)

    def info_of(self, event: str, fields: Mapping[str, Any]) -> None:
        """As `info`, for fields that are in a mapping already: as arguments they would be copied."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Writes an event that an operator should look at some time."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        """Writes an event that an operator should look at now; `exc_info` adds the traceback."""
        self._write(logging.ERROR, event, fields, exc_info)

    def _write(self, level: int, event: str, fields: Mapping[str, Any], error: BaseException | None = None) -> None:
        logger = self._logger
        if not logger.isEnabledFor(level):
            return
        if self._fields:
            fields = {**self._fields, **fields}
        handlers = _ROOT.handlers
        if (
            error is None
            and len(handlers) == 1
            and isinstance(only := handlers[0], LineHandler)
            and not (_OURS.handlers or logger.handlers)
        ):
            # No other handler is installed: without a LogRecord the line costs half.
            only.write(level, logger.name, event, fields)
        else:
            logger.log(level, event, extra={"fields": fields}, exc_info=error)
