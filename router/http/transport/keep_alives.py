"""Comments that keep streams open through proxies which cut silent connections."""

from __future__ import annotations

import asyncio
from typing import Protocol

# Looks at all streams for each interval, but not more often than it takes to notice a second.
_LOOKS = 8
_LOOK_S = 1.0


class Stream(Protocol):
    """What a comment can be written into."""

    def keep_alive(self) -> None:
        """Writes a comment, which clients skip."""


class KeepAlives:
    """Writes a comment into each stream at intervals, whether its answer is silent or not: noting each token's time
    would cost more. So would a timer for each stream: all are looked at together, up to eight times in the interval,
    and a comment comes late by as much at most.
    """

    def __init__(self) -> None:
        # When the next comment is due, and the seconds to the one after it.
        self._due: dict[Stream, tuple[float, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: Stream, every_s: float) -> None:
        """Begins with a stream."""
        loop = asyncio.get_running_loop()
        self._due[stream] = (loop.time() + every_s, every_s)
        if self._timer is None:
            self._timer = loop.call_later(min(_LOOK_S, every_s / _LOOKS), self._look)

    def remove(self, stream: Stream) -> None:
        """Writes no more into a stream."""
        del self._due[stream]

    def _look(self) -> None:
        self._timer = None
        if not self._due:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        for stream, (due, every_s) in list(self._due.items()):
            if due <= now:
                self._due[stream] = (now + every_s, every_s)
                stream.keep_alive()
        self._timer = loop.call_later(min(_LOOK_S, min(every for _, every in self._due.values()) / _LOOKS), self._look)
