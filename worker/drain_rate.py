"""How long a caller has to wait for a place in a full queue, from how fast requests have left it. Pure."""

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
        """A request that had waited was started."""
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
