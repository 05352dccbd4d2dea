"""Where a router learns which workers exist: from a list in its configuration, or from another source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Membership(Protocol):
    """The workers that a router knows; `WorkerDirectory` is one. Called on the event loop."""

    def join(self, address: str) -> None:
        """Takes a worker in: it is connected to, and used once it answers. Known ones stay as they are."""

    def leave(self, address: str) -> None:
        """Gives a worker no more requests and forgets it once those it has are answered. Unknown ones are ignored."""


class WorkerSource(Protocol):
    """Says which workers there are."""

    def known(self) -> Sequence[str]:
        """Returns the addresses that are known before anybody is asked."""

    async def follow(self, members: Membership) -> None:
        """Tells `members` of whoever comes and goes, until cancelled; returns where nothing will change.

        It must survive failures of what it reads from: while that cannot be reached, nothing changes.
        """


class StaticWorkers:
    """The workers of a configuration file: nobody comes, nobody goes."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = tuple(addresses)

    def known(self) -> Sequence[str]:
        """Returns all of them."""
        return self._addresses

    async def follow(self, members: Membership) -> None:
        """Returns at once: the list never changes."""
