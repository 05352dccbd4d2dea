"""When a process that has ended is started again."""

from __future__ import annotations


class RestartPolicy:
    """Says how long to wait before the next start: longer after each death, up to a limit, and never "give up".

    The pauses begin anew once a process has served for `settled_s`. One that served for less is worth an earlier start
    than one that never came so far: answers may be waiting for it. A process that was asked to end (an operator's
    SIGTERM) has not died, and makes no pause longer.
    """

    def __init__(
        self,
        *,
        first_s: float = 0.5,
        longest_s: float = 15.0,
        longest_served_s: float = 2.0,
        settled_s: float = 5.0,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._longest_served_s = longest_served_s
        self._settled_s = settled_s
        self._deaths = 0

    def next_delay(self, served_s: float, *, asked: bool = False) -> float:
        """Notes an end after `served_s` seconds of service and returns the pause in seconds before the next start."""
        settled = served_s >= self._settled_s
        if settled:
            self._deaths = 0
        if asked:
            return 0.0 if settled else self._first_s
        # Bounded before it is computed: a process may die for days.
        longest = self._longest_s if served_s <= 0 else min(self._longest_s, self._longest_served_s)
        pause = min(longest, self._first_s * 2.0 ** min(self._deaths, 30))
        self._deaths += 1
        return pause
