"""What travels with every call, whichever face it came through."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from qwenserve.runtime.ids import new_id

# Ids end up in log lines and headers: nothing that could break either.
_SAFE_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,128}\Z")


class Call(NamedTuple):
    """One call. `deadline` is on `time.monotonic()`'s clock; None means none."""

    request_id: str
    deadline: float | None = None
    traceparent: str = ""
    key_id: str = ""
    strict: bool | None = None

    def remaining_s(self) -> float | None:
        """Seconds left, at least 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


def request_id(given: str | None) -> str:
    """Returns the caller's id if it is usable in logs and headers, else a new one."""
    if given and _SAFE_ID.match(given):
        return given
    return new_id()
