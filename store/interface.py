"""What a store must do, and how it fails. Both implementations keep this contract; tests/store holds them to it.

A key is printable text without spaces. Values are bytes here; what they mean, and whether they can be believed, is
decided above (`store.values`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, Protocol


class StoreUnreachable(Exception):
    """The store cannot be talked to: no connection, no answer in time, or it refuses our login."""


class StoreRefused(Exception):
    """The store answered that it will not do this one thing: it is full, read-only, or holds something else there."""


# Seconds that are never over.
NO_LIMIT = float("inf")

# A window is counted in so many parts. What was taken in a part is free again when all of that part is older than the
# window, so no span of the window's length ever holds more than its limit, and waiting takes one part longer at most.
WINDOW_PARTS = 60


class Window(NamedTuple):
    """Takes `cost` of what may be taken within any `span_s` seconds: `limit` in all. A cost above the limit could never
    be granted, and must not be asked for.
    """

    name: str
    cost: int
    limit: int
    span_s: float


class Places(NamedTuple):
    """Places that several holders share, `limit` in all. `held` is how many this holder has, the one that is asked for
    among them; they are its own for `ttl_s` seconds, unless it says so again. What a holder says with a higher `number`
    is newer, in whatever order it arrives.
    """

    holder: str
    held: int
    limit: int
    number: int
    ttl_s: float


class Taken(NamedTuple):
    """Whether all windows and places had what was asked. If not, nothing was taken.

    `busy`: there was no place. Windows have what is asked for after `retry_after_s`. `left` is what each window has
    now, and `full_after_s` when it will have everything again. `at_ms` is the time on the store's clock: with it a
    part can be given back.
    """

    allowed: bool
    retry_after_s: float = 0.0
    left: tuple[int, ...] = ()
    full_after_s: tuple[float, ...] = ()
    at_ms: int = 0
    busy: bool = False


class Entry(NamedTuple):
    """One value of a log, and its place: places grow, and mean nothing else."""

    place: str
    value: bytes


class News(NamedTuple):
    """A value for a log, which keeps about its last `keep` until nothing was added for `ttl_s`."""

    log: str
    value: bytes
    keep: int
    ttl_s: float


class Page(NamedTuple):
    """Some of the keys there are, and where the following ones are read; 0: there are no more."""

    keys: Sequence[str]
    following: int


class Backend(Protocol):
    """One store. Every method may raise StoreUnreachable or StoreRefused, and none limits its own time but those that
    are called for every request: they raise asyncio.TimeoutError after `limit_s`, which costs less there than above.
    """

    remote: bool
    """Whether calls leave this process, and so can be slow or fail."""

    lists_keys: bool
    """Whether `keys` can be called."""

    async def ping(self) -> None:
        """Returns if the store answers."""

    def get(self, key: str, max_bytes: int, limit_s: float = NO_LIMIT) -> Awaitable[bytes | None]:
        """Gives the value; None or nothing (no value of ours is empty) where there is none. Of a longer value only
        `max_bytes` + 1 bytes are read: the length shows.
        """

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keeps a value for at most `ttl_s` seconds; it may go earlier, where room is short."""

    async def put_all(
        self, values: Sequence[tuple[str, bytes]], ttl_s: float, limit_s: float = NO_LIMIT, news: News | None = None
    ) -> None:
        """Keeps several values, as `put` does each, and behind them adds `news` to its log. Where one is refused others
        may have been kept.
        """

    async def delete(self, key: str) -> None:
        """Forgets a value."""

    async def keys(self, begin: str, place: int) -> Page:
        """Returns keys of values that begin so, from a place on; 0 is the first. Pages together have each key that was
        there all the time, some maybe twice.
        """

    async def append(self, key: str, value: bytes, keep: int, ttl_s: float) -> None:
        """Adds a value to a log, which keeps about its last `keep` values until nothing was added for `ttl_s`."""

    async def since(self, key: str, after: str, limit: int) -> Sequence[Entry]:
        """Returns at most `limit` values of a log, oldest first: all, or those behind the place `after`."""

    async def renew(self, group: str, member: str, value: bytes, ttl_s: float) -> None:
        """Announces a member of a group, or renews its lease, which then lasts `ttl_s` seconds from now."""

    async def withdraw(self, group: str, member: str) -> None:
        """Ends a lease early."""

    async def members(self, group: str) -> Mapping[str, bytes]:
        """Returns the values of a group's leases that have not expired."""

    async def take(self, scope: str, windows: Sequence[Window], places: Places | None) -> Taken:
        """Takes from all windows of a scope and its places, or from none, in one round trip."""

    async def give_back(self, scope: str, at_ms: int, windows: Sequence[Window], places: Places | None) -> None:
        """Gives back `cost` of what was taken from windows at `at_ms`, and says how many places are held now."""

    async def close(self) -> None:
        """Closes connections. Nothing may be called afterwards."""
