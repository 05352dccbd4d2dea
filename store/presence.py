"""Who is there, over time: which members have come, and which are gone for certain. Pure: time is handed in."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Seen(NamedTuple):
    """What one reading has changed."""

    came: frozenset[str]
    gone: frozenset[str]


class Presence:
    """Follows the readings of a group. A member is gone once it has been missing in all of them for `grace_s` seconds.

    The time is not counted while the store cannot be asked. One that was emptied, or was away for longer than a lease,
    knows nobody at first: those who are there need the time of a renewal to say so.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._missing_since: dict[str, float] = {}
        self.present: frozenset[str] = frozenset()

    def look(self, members: Collection[str] | None, now: float) -> Seen:
        """Takes one reading; None where the store could not be asked. Returns what it changes."""
        if members is None:
            self._missing_since.clear()
            return Seen(frozenset(), frozenset())
        came = frozenset(members) - self.present
        missing = self.present - frozenset(members)
        self._missing_since = {member: self._missing_since.get(member, now) for member in missing}
        gone = frozenset(m for m, since in self._missing_since.items() if now - since >= self._grace_s)
        for member in gone:
            del self._missing_since[member]
        self.present = (self.present | came) - gone
        return Seen(came, gone)
