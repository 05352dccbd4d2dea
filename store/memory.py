"""The store of a single process: nothing to install, nothing shared. Bounded in bytes; the oldest use goes first."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from qwenserve.store.interface import NO_LIMIT, WINDOW_PARTS, Entry, News, Page, Places, Taken, Window

# Bytes that a dictionary entry takes besides its key and its value.
_ENTRY_BYTES = 200
# A scope that nobody has touched for long has everything again in any sane configuration.
_MAX_SCOPES = 100_000


class _Kept(NamedTuple):
    value: bytes
    until: float


class _Log:
    __slots__ = ("entries", "until")

    def __init__(self) -> None:
        self.entries: deque[tuple[int, bytes]] = deque()
        self.until = 0.0


class _Held(NamedTuple):
    places: int
    number: int
    until_ms: int


class _Scope:
    """What was taken from the windows of a scope, by part, and who holds its places."""

    __slots__ = ("held", "taken")

    def __init__(self) -> None:
        self.taken: dict[str, dict[int, int]] = {}
        self.held: dict[str, _Held] = {}

    def parts(self, window: Window, now_ms: int) -> dict[int, int]:
        """Returns what counts now, by part, the oldest first. Older parts are forgotten."""
        oldest = now_ms // _part_ms(window) - WINDOW_PARTS
        kept = {part: amount for part, amount in self.taken.get(window.name, {}).items() if part >= oldest}
        self.taken[window.name] = kept
        return kept

    def hold(self, places: Places, now_ms: int) -> int:
        """Returns how many places all holders have, with what this one asks for."""
        self.held = {holder: held for holder, held in self.held.items() if held.until_ms > now_ms}
        own = self.held.get(places.holder)
        mine = own.places if own is not None and own.number > places.number else places.held
        return mine + sum(held.places for holder, held in self.held.items() if holder != places.holder)

    def set_held(self, places: Places, now_ms: int) -> None:
        """Notes what a holder says, unless it has said something newer."""
        own = self.held.get(places.holder)
        if own is None or own.number <= places.number:
            self.held[places.holder] = _Held(places.held, places.number, now_ms + round(places.ttl_s * 1000))


class MemoryBackend:
    """Keeps everything in dictionaries. `clock` is in seconds."""

    remote = False
    lists_keys = True

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._values: OrderedDict[str, _Kept] = OrderedDict()
        self._logs: OrderedDict[str, _Log] = OrderedDict()
        self._appended = 0
        self._groups: dict[str, dict[str, _Kept]] = {}
        self._scopes: OrderedDict[str, _Scope] = OrderedDict()
        self.bytes_used = 0

    async def ping(self) -> None:
        """Is always there."""

    async def get(self, key: str, max_bytes: int, limit_s: float = NO_LIMIT) -> bytes | None:
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

    async def put_all(
        self, values: Sequence[tuple[str, bytes]], ttl_s: float, limit_s: float = NO_LIMIT, news: News | None = None
    ) -> None:
        """See Backend."""
        for key, value in values:
            await self.put(key, value, ttl_s)
        if news is not None:
            await self.append(*news)

    async def delete(self, key: str) -> None:
        """See Backend."""
        self._forget(key)

    async def keys(self, begin: str, place: int) -> Page:
        """See Backend. All are on one page."""
        now = self._clock()
        return Page([key for key, kept in self._values.items() if kept.until > now and key.startswith(begin)], 0)

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

    async def take(self, scope: str, windows: Sequence[Window], places: Places | None) -> Taken:
        """See Backend."""
        now_ms = self._now_ms()
        kept = self._scope(scope)
        counted = [kept.parts(window, now_ms) for window in windows]
        wait_ms = max(
            (_wait_ms(window, parts, now_ms) for window, parts in zip(windows, counted, strict=True)), default=0
        )
        busy = places is not None and kept.hold(places, now_ms) > places.limit
        allowed = not (wait_ms or busy)
        if allowed:
            for window, parts in zip(windows, counted, strict=True):
                part = now_ms // _part_ms(window)
                parts[part] = parts.get(part, 0) + window.cost
            if places is not None:
                kept.set_held(places, now_ms)
        left = tuple(window.limit - sum(parts.values()) for window, parts in zip(windows, counted, strict=True))
        full = tuple(_full_ms(window, parts, now_ms) / 1000 for window, parts in zip(windows, counted, strict=True))
        return Taken(allowed, wait_ms / 1000, left, full, now_ms, busy)

    async def give_back(self, scope: str, at_ms: int, windows: Sequence[Window], places: Places | None) -> None:
        """See Backend."""
        now_ms = self._now_ms()
        kept = self._scope(scope)
        for window in windows:
            parts, part = kept.parts(window, now_ms), at_ms // _part_ms(window)
            if part in parts:
                parts[part] = max(0, parts[part] - window.cost)
        if places is not None:
            kept.set_held(places, now_ms)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _scope(self, name: str) -> _Scope:
        kept = self._scopes.setdefault(name, _Scope())
        self._scopes.move_to_end(name)
        if len(self._scopes) > _MAX_SCOPES:
            self._scopes.popitem(last=False)
        return kept

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


def _part_ms(window: Window) -> int:
    return max(1, round(window.span_s * 1000 / WINDOW_PARTS))


def _free_ms(window: Window, part: int, now_ms: int) -> int:
    return (part + WINDOW_PARTS + 1) * _part_ms(window) - now_ms


def _wait_ms(window: Window, parts: Mapping[int, int], now_ms: int) -> int:
    """Returns how long it takes until the window has its cost; 0 if it has."""
    missing = sum(parts.values()) + window.cost - window.limit
    for part in sorted(parts):
        if missing <= 0:
            break
        missing -= parts[part]
        if missing <= 0:
            return _free_ms(window, part, now_ms)
    return 0


def _full_ms(window: Window, parts: Mapping[int, int], now_ms: int) -> int:
    used = [part for part, amount in parts.items() if amount]
    return _free_ms(window, max(used), now_ms) if used else 0
