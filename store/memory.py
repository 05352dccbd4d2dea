"""The store of a single process: nothing to install, nothing shared. Bounded in bytes; the oldest use goes first."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from qwenserve.store.interface import Bucket, Entry, Taken

# Bytes that a dictionary entry takes besides its key and its value.
_ENTRY_BYTES = 200
# A bucket that nobody has touched for long is full again in any sane configuration.
_MAX_SCOPES = 100_000


class _Kept(NamedTuple):
    value: bytes
    until: float


class _Log:
    __slots__ = ("entries", "until")

    def __init__(self) -> None:
        self.entries: deque[tuple[int, bytes]] = deque()
        self.until = 0.0


class MemoryBackend:
    """Keeps everything in dictionaries. `clock` is in seconds."""

    remote = False

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._values: OrderedDict[str, _Kept] = OrderedDict()
        self._logs: OrderedDict[str, _Log] = OrderedDict()
        self._appended = 0
        self._groups: dict[str, dict[str, _Kept]] = {}
        self._levels: OrderedDict[str, dict[str, tuple[float, float]]] = OrderedDict()
        self.bytes_used = 0

    async def ping(self) -> None:
        """Is always there."""

    async def get(self, key: str, max_bytes: int) -> bytes | None:
        """See Backend."""
        kept = self._values.get(key)
        if kept is None:
            return None
        if kept.until <= self._clock():
            self._forget(key)
            return None
        self._values.move_to_end(key)
        return kept.value[: max_bytes + 1]

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """See Backend. A value larger than the whole store is not kept."""
        self._forget(key)
        size = _size(key, value)
        if size > self._max_bytes:
            return
        self._values[key] = _Kept(value, self._clock() + ttl_s)
        self.bytes_used += size
        self._make_room()

    async def delete(self, key: str) -> None:
        """See Backend."""
        self._forget(key)

    async def append(self, key: str, value: bytes, keep: int, ttl_s: float) -> None:
        """See Backend. All logs together are as large as the store at most: the one that was unused longest goes."""
        log = self._logs.setdefault(key, _Log())
        self._logs.move_to_end(key)
        log.until = self._clock() + ttl_s
        self._appended += 1
        log.entries.append((self._appended, value))
        self.bytes_used += _size(key, value)
        while len(log.entries) > keep:
            self.bytes_used -= _size(key, log.entries.popleft()[1])
        self._make_room()

    async def since(self, key: str, after: str, limit: int) -> Sequence[Entry]:
        """See Backend."""
        log = self._logs.get(key)
        if log is None:
            return []
        if log.until <= self._clock():
            self._forget_log(key)
            return []
        self._logs.move_to_end(key)
        first = int(after or 0)
        return [Entry(str(place), value) for place, value in log.entries if place > first][:limit]

    async def renew(self, group: str, member: str, value: bytes, ttl_s: float) -> None:
        """See Backend."""
        self._groups.setdefault(group, {})[member] = _Kept(value, self._clock() + ttl_s)

    async def withdraw(self, group: str, member: str) -> None:
        """See Backend."""
        self._groups.get(group, {}).pop(member, None)

    async def members(self, group: str) -> Mapping[str, bytes]:
        """See Backend."""
        now = self._clock()
        living = {member: kept for member, kept in self._groups.get(group, {}).items() if kept.until > now}
        self._groups[group] = living
        return {member: kept.value for member, kept in living.items()}

    async def take(self, scope: str, buckets: Sequence[Bucket]) -> Taken:
        """See Backend."""
        now = self._clock()
        levels = self._levels.setdefault(scope, {})
        self._levels.move_to_end(scope)
        if len(self._levels) > _MAX_SCOPES:
            self._levels.popitem(last=False)
        wait = 0.0
        held: list[float] = []
        left = {}
        for name, cost, capacity, per_s in buckets:
            level, since = levels.get(name, (capacity, now))
            level = min(capacity, level + (now - since) * per_s)
            if level < cost:
                wait = max(wait, (cost - level) / per_s)
            held.append(level)
            left[name] = (min(capacity, level - cost), now)
        if wait > 0:
            return Taken(False, wait, tuple(held))
        levels.update(left)
        return Taken(True, 0.0, tuple(level for level, _ in left.values()))

    async def close(self) -> None:
        """See Backend."""
        self._values.clear()
        self._logs.clear()
        self.bytes_used = 0

    def _make_room(self) -> None:
        while self.bytes_used > self._max_bytes and (self._values or self._logs):
            if self._values:
                self._forget(next(iter(self._values)))
            else:
                self._forget_log(next(iter(self._logs)))

    def _forget_log(self, key: str) -> None:
        log = self._logs.pop(key)
        self.bytes_used -= sum(_size(key, value) for _, value in log.entries)

    def _forget(self, key: str) -> None:
        kept = self._values.pop(key, None)
        if kept is not None:
            self.bytes_used -= _size(key, kept.value)


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _ENTRY_BYTES
