"""What of logs may leave the machine. Pure.

Logs hold no prompts by design, but an error may quote the value at fault, an exception its argument, and a library may
print whatever it likes. So only what is known to be harmless stays: numbers, names of our own fields, and of free texts
what is not between quotation marks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_LEFT_OUT = "(left out)"
# Texts of ours, or names that operators give.
_KEPT = frozenset({
    "address", "before", "bound", "call", "drained", "engine", "event", "finish", "host", "kind", "launcher", "level",
    "logger", "meanwhile", "method", "model", "name", "outcome", "rank", "remedy", "request_id", "signal", "state",
    "store", "task", "tier", "time", "trace_id", "waiting_for", "worker", "workers",
})  # fmt: skip
# In the event of an HTTP request these are what its caller sent.
_OF_THE_CALLER = frozenset({"method", "model"})
# Sentences, which may quote a value.
_SENTENCES = frozenset({"error", "reason", "message"})
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|“[^”]*”")
_REASON = re.compile(r"[A-Z_]{2,40}\Z")
_SECRETS = re.compile(
    r"\bsk-[A-Za-z0-9_\-]{8,}|\bhf_[A-Za-z0-9]{8,}|\b[Bb]earer\s+\S+|(?<=://)[^/@\s]+(?=@)|-----BEGIN [^-]+-----.*"
)
_LONGEST = 400
_FRAME = re.compile(r'\s+(File "[^"]+", line \d+.*|[~^ ]+)\Z')
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning|Iteration|Timeout)\w*)(: .*)?\Z")


class Scrubber:
    """Takes known secrets, and what looks like one, out of any text."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: one may be part of another.
        self._secrets = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """Returns the text without them."""
        for secret in self._secrets:
            text = text.replace(secret, "(hidden)")
        return _SECRETS.sub("(hidden)", text)


def safe_line(line: str) -> str:
    """Returns a line of a log without what may be a caller's."""
    try:
        fields = json.loads(line)
    except ValueError:
        return _plain(line)
    if not isinstance(fields, dict):
        return _plain(line)
    of_a_request = fields.get("event") == "request"
    failed_by_caller = fields.get("level") in ("info", "debug")
    return json.dumps({name: _field(name, value, of_a_request, failed_by_caller) for name, value in fields.items()})


def _field(name: str, value: Any, of_a_request: bool, failed_by_caller: bool) -> Any:
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if of_a_request and name in _OF_THE_CALLER:
        return _LEFT_OUT
    if name == "traceback" and isinstance(value, str):
        return "\n".join(map(_plain, value.splitlines()))
    if name in _KEPT:
        return value if isinstance(value, str) else [each if isinstance(each, str) else _LEFT_OUT for each in value]
    if name in _SENTENCES and isinstance(value, str):
        if _REASON.match(value):
            return value
        # What is wrong with a request is told in the request's own words.
        return _LEFT_OUT if failed_by_caller else _unquoted(value)
    return _LEFT_OUT


def _plain(line: str) -> str:
    """A line that is no event of ours: a traceback's, or a library's."""
    if _FRAME.match(line):
        return line
    if (found := _EXCEPTION.match(line.strip())) is not None:
        return f"{found[1]}: {_LEFT_OUT}" if found[2] else found[1]
    if re.search(r"prompt|content|message|token_ids", line, re.IGNORECASE):
        return _LEFT_OUT
    return _unquoted(line)


def _unquoted(text: str) -> str:
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return _QUOTED.sub("'…'", cut)


def safe_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Returns settings without those that are words to the model."""
    return {key: _LEFT_OUT if key == "router.thinking_closing" else text for key, text in settings.items()}
