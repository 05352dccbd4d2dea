"""Waiting for the state of other processes, with a limit."""

import time
from collections.abc import Callable

_POLL_S = 0.02


def until(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    """Returns as soon as `condition` holds; fails with `what` if it does not within the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(_POLL_S)
