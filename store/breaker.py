"""When to stop asking a store that does not answer. Pure: time is handed in."""

from __future__ import annotations

# One slow answer may be chance; three in a row, with no good one between them, mean that something is wrong.
_FAILURES = 3
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 2.0


class Breaker:
    """Closed: every call asks the store. Open: only the probe does, which closes it again once the store answers.

    Without it a store that hangs would cost every request the whole time limit.
    """

    __slots__ = ("_failed", "_pause_s", "is_open", "troubled")

    def __init__(self) -> None:
        self.is_open = False
        # Whether the last call got no answer.
        self.troubled = False
        self._failed = 0
        self._pause_s = _FIRST_PAUSE_S

    def failed(self) -> bool:
        """Notes a call that got no answer. Returns whether this opened it."""
        self.troubled = True
        self._failed += 1
        if self.is_open or self._failed < _FAILURES:
            return False
        self.is_open = True
        self._pause_s = _FIRST_PAUSE_S
        return True

    def answered(self) -> None:
        """Notes that the store answers."""
        self.is_open = self.troubled = False
        self._failed = 0

    def next_pause_s(self) -> float:
        """How long the probe waits before it asks (again): doubling, up to two seconds."""
        pause = self._pause_s
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * pause)
        return pause
