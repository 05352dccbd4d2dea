"""What travels with every call, whichever face it came through: caller's key, request id, trace, deadline, strictness.

Both faces read it from the same names (`x-request-id`, `traceparent`, `x-strict`), headers there and metadata here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Protocol

from qwenserve.router.tracing.request_trace import RequestTrace
from qwenserve.runtime.errors import InvalidRequest
from qwenserve.runtime.ids import new_id
from qwenserve.runtime.secret import Secret
from qwenserve.runtime.values import frozen_value

# Ids end up in log lines and headers: only characters that can break neither.
_SAFE_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,128}\Z")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}[0-9a-zA-Z\-]{0,64}\Z")


_NO_KEY = Secret()

# The limits of OpenAI's API.
_MAX_LABELS, _MAX_LABEL, _MAX_VALUE = 16, 64, 512


class Admission(Protocol):
    """The place that a request has taken among those of its key."""

    def settle(self, used_tokens: int) -> None:
        """Leaves it. `used_tokens` are those of prompt and answer. Further calls do nothing."""


@frozen_value
class Call:
    """One call. `deadline` is on `time.monotonic()`'s clock; None means none. `key_id` names the caller's key
    without showing it; empty where keys are not asked for. `strict`: fields that cannot be applied are refused; None
    leaves it to the deployment. `user` and `labels` are the caller's own, for the log event. `trace` is there where the
    request is traced, `admission` where its key has limits. `authorization` is the caller's key as it was sent, for
    whoever passes the call on.
    """

    request_id: str
    deadline: float | None = None
    traceparent: str = ""
    key_id: str = ""
    strict: bool | None = None
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    trace: RequestTrace | None = None
    admission: Admission | None = None
    authorization: Secret = _NO_KEY

    def labelled(self, user: str, labels: Mapping[str, str]) -> Call:
        """Returns this call with what its caller wants in the log; without it where there is too much."""
        if not (user or labels) or too_much_to_log(user, labels):
            return self
        return replace(self, user=user, labels=dict(labels))

    def remaining_s(self) -> float | None:
        """Seconds left, at least 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


def too_much_to_log(user: str, labels: Mapping[str, str]) -> str:
    """Returns which field, `user` or `metadata`, is too long for a log event; empty where none is."""
    if len(user) > _MAX_VALUE:
        return "user"
    if not labels:
        return ""
    if len(labels) > _MAX_LABELS or any(len(k) > _MAX_LABEL or len(v) > _MAX_VALUE for k, v in labels.items()):
        return "metadata"
    return ""


def request_id(given: str | None) -> str:
    """Returns the caller's id if it is usable in logs and headers, else a new one."""
    if given and _SAFE_ID.match(given):
        return given
    return new_id()


def traceparent(given: str | None) -> str:
    """Returns a W3C trace context if it is one, else nothing."""
    return given if given and _TRACEPARENT.match(given) else ""


def strictness(given: str | None) -> bool | None:
    """Returns what `x-strict` says; None where it is absent. Raises InvalidRequest for what is neither yes nor no."""
    if given is None:
        return None
    value = given.strip().lower()
    if value in ("true", "1", "yes", "on"):
        return True
    if value in ("false", "0", "no", "off", ""):
        return False
    raise InvalidRequest("x-strict must be true or false", param="x-strict")
