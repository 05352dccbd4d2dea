"""What a store must do, and how it fails. Both implementations keep this contract; tests/store holds them to it.

A key is printable text without spaces. Values are bytes here; what they mean, and whether they can be believed, is
decided above (`store.values`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class StoreUnreachable(Exception):
    """The store cannot be talked to: no connection, no answer in time, or it refuses our login."""


class StoreRefused(Exception):
    """The store answered that it will not do this one thing: it is full, read-only, or holds something else there."""


class Bucket(NamedTuple):
    """Takes `cost` from a bucket that holds `capacity` at most and gains `per_s` a second; it begins full.

    A negative cost gives back. `cost` must not be above `capacity`: that could never be granted.
    """

    name: str
    cost: float
    capacity: float
    per_s: float


class Taken(NamedTuple):
    """Whether all buckets had what was asked. If not, nothing was taken; after `retry_after_s` they will have it.

    `left` is what each bucket holds now.
    """

    allowed: bool
    retry_after_s: float
    left: tuple[float, ...] = ()


class Entry(NamedTuple):
    """One value of a log, and its place: places grow, and mean nothing else."""

    place: str
    value: bytes


class Backend(Protocol):
    """One store. Every method may raise StoreUnreachable or StoreRefused, and none limits its own time."""

    remote: bool
    """Whether calls leave this process, and so can be slow or fail."""

    async def ping(self) -> None:
        """Returns if the store answers."""

    async def get(self, key: str, max_bytes: int) -> bytes | None:
        """Returns the value, or None. Of a longer value only `max_bytes` + 1 bytes are read: the length shows."""

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keeps a value for at most `ttl_s` seconds; it may go earlier, where room is short."""

    async def delete(self, key: str) -> None:
        """Forgets a value."""

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

    async def take(self, scope: str, buckets: Sequence[Bucket]) -> Taken:
        """Takes from all buckets of a scope, or from none, in one round trip."""

    async def close(self) -> None:
        """Closes connections. Nothing may be called afterwards."""
