"""What happened to one request, as the client saw it. Times are seconds on `time.perf_counter()`'s clock."""

from __future__ import annotations

from array import array


class Record:
    """One request. Filled in by the endpoint, read when it has ended.

    Only events that carry content are noted: a role-only first delta, the finish and the usage are not tokens. An
    event may carry several tokens, so `completion_tokens` is what the server reports (0: it reported nothing).
    """

    __slots__ = (
        "asked_tokens",
        "cached_tokens",
        "completion_tokens",
        "counts",
        "ended",
        "error",
        "expected_prompt_tokens",
        "finish_reason",
        "index",
        "prompt_tokens",
        "scheduled",
        "sent",
        "stamps",
        "text",
    )

    def __init__(
        self, index: int, *, asked_tokens: int, expected_prompt_tokens: int = 0, scheduled: float = 0.0
    ) -> None:
        self.index = index
        self.asked_tokens = asked_tokens
        self.expected_prompt_tokens = expected_prompt_tokens
        self.scheduled = scheduled
        self.sent = 0.0
        self.ended = 0.0
        self.stamps = array("d")
        self.counts = array("l")
        self.prompt_tokens = 0
        self.completion_tokens = 0
        # None: the server did not say.
        self.cached_tokens: int | None = None
        self.finish_reason = ""
        # Empty when the request succeeded; else a short reason that groups like failures.
        self.error = ""
        # Only kept where the next turn of a conversation needs it.
        self.text = ""

    def arrived(self, now: float, count: int) -> None:
        """Notes `count` content events that were read together."""
        self.stamps.append(now)
        self.counts.append(count)

    def drop_last_events(self, count: int) -> None:
        """Takes back the last `count` events: they turned out to carry no content."""
        while count > 0 and self.counts:
            taken = min(count, self.counts[-1])
            self.counts[-1] -= taken
            count -= taken
            if not self.counts[-1]:
                self.counts.pop()
                self.stamps.pop()

    @property
    def events(self) -> int:
        """Content events received."""
        return sum(self.counts)

    @property
    def tokens(self) -> int:
        """Generated tokens: the server's count, else the number of events."""
        return self.completion_tokens or self.events

    @property
    def lateness(self) -> float:
        """Seconds between the schedule and the send."""
        return self.sent - self.scheduled

    @property
    def ttft(self) -> float | None:
        """Seconds from send to the first content; None without content."""
        return self.stamps[0] - self.sent if self.stamps else None

    @property
    def e2e(self) -> float:
        """Seconds from send to the end of the answer."""
        return self.ended - self.sent

    @property
    def tpot(self) -> float | None:
        """Seconds per token after the first: last content minus first, by tokens minus 1. None below two tokens."""
        if self.tokens < 2 or len(self.stamps) < 2:
            return None
        return (self.stamps[-1] - self.stamps[0]) / (self.tokens - 1)

    def gaps(self) -> array[float]:
        """Seconds between consecutive events; events that were read together are 0 apart."""
        gaps = array("d")
        last: float | None = None
        for stamp, count in zip(self.stamps, self.counts, strict=True):
            if last is not None:
                gaps.append(stamp - last)
            gaps.extend([0.0] * (count - 1))
            last = stamp
        return gaps
