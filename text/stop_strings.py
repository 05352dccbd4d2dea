"""Stop strings, matched on text as it comes.

The match that ends first wins, and of those that end together the longest: whatever the deltas were, the answer is
cut at the same place. Only text that may still become a match is held back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_NEVER = re.compile("(?!)")


class StopMatcher:
    """Finds the first of some stop strings. `matched` is set once one is found; nothing comes out after it."""

    __slots__ = ("_first", "_held", "_include", "_longest", "_stops", "matched")

    def __init__(self, stop_strings: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stop for stop in stop_strings if stop) if stop_strings else ()
        self._include = include
        self._longest = 0
        self._first = _NEVER
        if self._stops:  # few requests have any
            self._longest = max(map(len, self._stops))
            first = "".join(sorted({stop[0] for stop in self._stops}))
            self._first = re.compile(f"[{re.escape(first)}]")
        self._held = ""
        self.matched: str | None = None

    def screened(self, plain: Mapping[int, str | None]) -> Mapping[int, str | None]:
        """`plain` without the tokens that hold a character that a stop string begins with.

        While nothing is held, the others can neither match nor be the beginning of a match.
        """
        return _Screened(plain, self._first) if self._stops else plain

    @property
    def holding(self) -> bool:
        """Whether text is held back."""
        return bool(self._held)

    def push(self, text: str) -> str:
        """The text that is now known to be no part of a match, or, at a match, what comes before it."""
        if not self._held and self._first.search(text) is None:
            return text
        text = self._held + text
        end = self._match(text)
        if self.matched is not None:
            self._held = ""
            return text[: end if self._include else end - len(self.matched)]
        hold = self._hold_from(text)
        self._held = text[hold:]
        return text[:hold]

    def flush(self) -> str:
        """What was held, now that nothing follows."""
        held, self._held = self._held, ""
        return held

    def _match(self, text: str) -> int:
        best = len(text) + 1
        for stop in self._stops:
            start = text.find(stop)
            if start < 0:
                continue
            end = start + len(stop)
            if end < best or (end == best and self.matched is not None and len(stop) > len(self.matched)):
                best, self.matched = end, stop
        return best

    def _hold_from(self, text: str) -> int:
        """Where the longest ending of `text` begins that a stop string begins with."""
        for place in self._first.finditer(text, max(0, len(text) - self._longest + 1)):
            ending = text[place.start() :]
            if any(stop.startswith(ending) for stop in self._stops):
                return place.start()
        return len(text)


# For answers without stop strings, which are most: it never holds or matches anything, so all of them can share it.
NO_STOPS = StopMatcher(())


class _Screened(dict[int, str | None]):
    """Filled as ids are met."""

    def __init__(self, plain: Mapping[int, str | None], first: re.Pattern[str]) -> None:
        super().__init__()
        self._plain = plain
        self._first = first

    def __missing__(self, token_id: int) -> str | None:
        text = self._plain[token_id]
        if text is not None and self._first.search(text) is not None:
            text = None
        self[token_id] = text
        return text
