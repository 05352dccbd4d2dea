"""How long a caller has to wait for a place where all are taken, from how fast others have become free. Pure."""

from __future__ import annotations

from collections import deque

# So many of the last starts tell the rate.
_STARTS = 32

# What callers are told at least and at most, and while nothing has left the queue yet.
_LEAST_S = 0.5
_MOST_S = 60.0
_UNKNOWN_S = 2.0


class DrainRate:
    """Notes when requests leave the queue. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._starts: deque[float] = deque(maxlen=_STARTS)

    def started(self, now: float) -> None:
        """A place has become free: a request that had waited was started, or one that was open has ended."""
        self._starts.append(now)

    def wait_s(self, queued: int, now: float) -> float:
        """Returns in how many seconds half of `queued` requests will have left: a caller that comes back then finds
        room, and so do the others who were told the same.
        """
        if not self._starts:
            return _UNKNOWN_S
        passed = now - self._starts[0]
        each = passed / len(self._starts)
        return min(_MOST_S, max(_LEAST_S, each * max(1, queued) / 2))
