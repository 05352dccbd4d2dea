"""The store as the rest of the code sees it: every call has a time limit, and none ever fails.

A call that did not work returns what "unknown" is for it (None, or False), within `timeout_s`; the caller goes on
without. A counter says how calls went, a log line when a trouble begins and when it is over. Values are wrapped and
checked by `store.values`: a value that is foreign or damaged counts as missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from qwenserve.runtime.counting import Counters
from qwenserve.runtime.deadlines import HELD_UP_AGAIN, within
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.runtime.logs import EventLog
from qwenserve.store.breaker import Breaker
from qwenserve.store.interface import Backend, Entry, News, Page, Places, StoreRefused, StoreUnreachable, Taken, Window
from qwenserve.store.values import BadValue, Envelope

_log = EventLog("store")

T = TypeVar("T")

# A trouble is over once it has not been seen for so long: one that comes and goes writes one line.
_QUIET_S = 30.0
# How long the probe, which no request waits for, allows for a connection to be made.
_CONNECT_S = 1.0
# Longest value of a lease: a description of a worker has a few hundred bytes.
MAX_LEASE_BYTES = 16 * 1024


class LogEntry(NamedTuple):
    """One value of a log; None where it is not believed."""

    place: str
    payload: bytes | None


class SharedStore:
    """One store, guarded. `close` ends it."""

    def __init__(
        self,
        backend: Backend,
        *,
        timeout_s: float,
        where: str,
        envelope: Envelope | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`where` names the store in logs."""
        self._backend = backend
        self._timeout_s = timeout_s
        self._envelope = envelope or Envelope()
        self._breaker = Breaker()
        self._tasks = TaskOwner()
        self._log = _log.bind(store=where)
        self._clock = clock
        self._troubles: dict[str, float] = {}
        self.calls = Counters(
            "qwenserve_store_calls",
            "Calls of the store by outcome: ok, refused, unreachable, timeout, or skipped while it is down.",
            ["call", "outcome"],
        )
        # Requests count this one: without the look-up by labels.
        self._gets = self.calls.labels("get", "ok")
        self.bad_values = Counters(
            "qwenserve_store_bad_values", "Values of the store that were not believed, by reason.", ["reason"]
        )

    @property
    def shared(self) -> bool:
        """Whether other processes see what is put here."""
        return self._backend.remote

    @property
    def lists_keys(self) -> bool:
        """Whether `keys` can be called."""
        return self._backend.lists_keys

    @property
    def answering(self) -> bool:
        """Whether the last calls were answered."""
        return not self._breaker.is_open

    async def get(self, key: str, *, max_bytes: int) -> bytes | None:
        """Returns a value of at most `max_bytes`; None where there is none, or none that can be had or believed."""
        # Every request asks: without the layers that other calls have.
        if self._breaker.is_open:
            self._count("get", "skipped")
            return None
        try:
            value = await self._backend.get(key, max_bytes + self._envelope.overhead_bytes, self._timeout_s)
        except (asyncio.TimeoutError, StoreUnreachable, StoreRefused) as error:
            self._failed("get", error)
            return None
        self._gets.inc()
        self._well("get")
        return self._opened(key, value, max_bytes) if value else None

    async def put(self, key: str, payload: bytes, *, ttl_s: float) -> bool:
        """Keeps a value for at most `ttl_s` seconds. Returns whether the store accepted it."""
        sealed = self._envelope.seal(key, payload)
        return await self._call("put", lambda: _done(self._backend.put(key, sealed, ttl_s)), False)

    async def put_all(self, values: Sequence[tuple[str, bytes]], *, ttl_s: float, news: News | None = None) -> bool:
        """Keeps several values, in one message where that can be, and adds `news` to its log. Returns whether the store
        accepted all of it.
        """
        sealed = [(key, self._envelope.seal(key, payload)) for key, payload in values]
        if news is not None:
            news = news._replace(value=self._envelope.seal(news.log, news.value))
        if self._breaker.is_open:
            self._count("put", "skipped")
            return False
        try:
            await self._backend.put_all(sealed, ttl_s, self._timeout_s, news)
        except (asyncio.TimeoutError, StoreUnreachable, StoreRefused) as error:
            self._failed("put", error)
            return False
        self._worked("put")
        return True

    async def delete(self, key: str) -> bool:
        """Forgets a value. Returns whether the store was told."""
        return await self._call("delete", lambda: _done(self._backend.delete(key)), False)

    async def keys(self, begin: str, place: int) -> Page | None:
        """Returns keys of values that begin so (see `Backend.keys`); None where that cannot be known now."""
        return await self._call("keys", lambda: self._known_keys(begin, place), None)

    async def append(self, key: str, payload: bytes, *, keep: int, ttl_s: float) -> bool:
        """Adds a value to a log, which keeps about its last `keep`. Returns whether the store accepted it."""
        sealed = self._envelope.seal(key, payload)
        return await self._call("append", lambda: _done(self._backend.append(key, sealed, keep, ttl_s)), False)

    async def since(self, key: str, after: str, *, limit: int, max_bytes: int) -> Sequence[LogEntry] | None:
        """Returns what was added to a log behind the place `after`, oldest first; None where that cannot be known."""
        found = await self._call("since", lambda: self._known_since(key, after, limit), None)
        if found is None:
            return None
        return [LogEntry(entry.place, self._opened(key, entry.value, max_bytes)) for entry in found]

    async def renew(self, group: str, member: str, payload: bytes, *, ttl_s: float) -> bool:
        """Announces a member, or renews its lease. Returns whether the lease stands."""
        sealed = self._envelope.seal(_place(group, member), payload)
        return await self._call("renew", lambda: _done(self._backend.renew(group, member, sealed, ttl_s)), False)

    async def withdraw(self, group: str, member: str) -> bool:
        """Ends a lease early. Returns whether the store was told."""
        return await self._call("withdraw", lambda: _done(self._backend.withdraw(group, member)), False)

    async def members(self, group: str) -> Mapping[str, bytes] | None:
        """Returns the living members of a group; None where that cannot be known now."""
        values = await self._call("members", lambda: self._known_members(group), None)
        if values is None:
            return None
        opened = ((m, self._opened(_place(group, m), value, MAX_LEASE_BYTES)) for m, value in values.items())
        return {member: payload for member, payload in opened if payload is not None}

    async def take(self, scope: str, windows: Sequence[Window], places: Places | None = None) -> Taken | None:
        """Takes from all windows and places or none; None where the store cannot say, and the caller must count by
        itself.
        """
        return await self._call("take", lambda: self._known_take(scope, windows, places), None)

    async def give_back(self, scope: str, at_ms: int, windows: Sequence[Window], places: Places | None = None) -> bool:
        """Gives back what was taken at `at_ms`, and says how many places are held. Returns whether the store knows."""
        return await self._call(
            "give_back", lambda: _done(self._backend.give_back(scope, at_ms, windows, places)), False
        )

    async def close(self) -> None:
        """Ends the probe and closes connections."""
        await self._tasks.close()
        try:
            await within(self._timeout_s, self._backend.close())
        except asyncio.TimeoutError:
            self._log.warning("store_not_closed")

    async def _known_members(self, group: str) -> Mapping[str, bytes] | None:
        return await self._backend.members(group)

    async def _known_keys(self, begin: str, place: int) -> Page | None:
        return await self._backend.keys(begin, place)

    async def _known_since(self, key: str, after: str, limit: int) -> Sequence[Entry] | None:
        return await self._backend.since(key, after, limit)

    async def _known_take(self, scope: str, windows: Sequence[Window], places: Places | None) -> Taken | None:
        return await self._backend.take(scope, windows, places)

    async def _call(self, call: str, work: Callable[[], Awaitable[T]], otherwise: T) -> T:
        if not self._backend.remote:
            result = await work()
            self._count(call, "ok")
            return result
        if self._breaker.is_open:
            self._count(call, "skipped")
            return otherwise
        try:
            result = await within(self._timeout_s, work(), again=HELD_UP_AGAIN)
        except (asyncio.TimeoutError, StoreUnreachable, StoreRefused) as error:
            self._failed(call, error)
            return otherwise
        self._worked(call)
        return result

    def _worked(self, call: str) -> None:
        self._count(call, "ok")
        self._well(call)

    def _well(self, call: str) -> None:
        """Ends troubles, where there are any."""
        if self._breaker.troubled:
            self._breaker.answered()
        if self._troubles:
            self._over(call)

    def _failed(self, call: str, error: Exception) -> None:
        if isinstance(error, StoreRefused):
            # It answers, and quickly: no request is kept waiting.
            self._breaker.answered()
            self._count(call, "refused")
            self._trouble(call, str(error))
        elif isinstance(error, StoreUnreachable):
            self._count(call, "unreachable")
            self._unanswered(str(error))
        else:
            self._count(call, "timeout")
            self._unanswered(f"no answer within {self._timeout_s:g} s")

    def _unanswered(self, reason: str) -> None:
        if self._breaker.failed():
            self._log.warning("store_down", reason=reason, meanwhile="requests go on without it")
            self._tasks.start(self._probe(), name="store probe")

    async def _probe(self) -> None:
        """Asks until the store answers, without delaying any request."""
        while self._breaker.is_open:
            await asyncio.sleep(self._breaker.next_pause_s())
            try:
                # Connecting, and learning who is who in a cluster, may take longer than a call.
                await within(max(_CONNECT_S, self._timeout_s), self._backend.ping())
                await within(self._timeout_s, self._backend.ping())
            except (asyncio.TimeoutError, StoreUnreachable):
                self._count("ping", "unreachable")
                continue
            except StoreRefused:
                pass  # an answer
            self._count("ping", "ok")
            self._breaker.answered()
            self._log.info("store_back")

    def disbelieve(self, reason: str) -> None:
        """Counts a value that was whole, and still not what it should have been; `reason` is one of a few."""
        self.bad_values.labels(reason).inc()
        self._trouble("value", f"a stored value is not believed: {reason}")

    def _opened(self, place: str, value: bytes, max_bytes: int) -> bytes | None:
        try:
            payload = self._envelope.open(place, value, max_bytes)
        except BadValue as error:
            self.disbelieve(str(error))
            return None
        if self._troubles:
            self._over("value")
        return payload

    def _trouble(self, kind: str, reason: str) -> None:
        if kind not in self._troubles:
            self._log.warning("store_trouble", call=kind, reason=reason)
        self._troubles[kind] = self._clock()

    def _over(self, kind: str) -> None:
        last = self._troubles.get(kind)
        if last is not None and self._clock() - last >= _QUIET_S:
            del self._troubles[kind]
            self._log.info("store_trouble_over", call=kind)

    def _count(self, call: str, outcome: str) -> None:
        self.calls.labels(call, outcome).inc()


async def _done(work: Awaitable[None]) -> bool:
    await work
    return True


def _place(group: str, member: str) -> str:
    return f"{group}/{member}"
