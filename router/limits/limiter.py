"""What each key may use: requests and tokens a minute, answers at a time, longest answer, highest priority.

No minute, wherever it begins, holds more than is allowed. Tokens are taken before the answer, for the prompt and the
longest answer that the request allows, and what was not used is given back at its end: so nobody gets ahead by asking
for many answers at a time. All is counted in the store, for all routers together, in one round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from qwenserve.router.chat.call import Call
from qwenserve.router.chat.prepare import Prepared
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.errors import RateLimited, Unavailable
from qwenserve.runtime.ids import new_id
from qwenserve.runtime.keys import KeyRecord
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.store.interface import Places, Taken, Window
from qwenserve.store.memory import MemoryBackend
from qwenserve.store.shared import SharedStore

_MINUTE_S = 60.0
_REQUESTS, _TOKENS = "requests", "tokens"
# Keys whose last state is remembered, for the headers of replies.
_MAX_SEEN = 10_000
# Where the store does not answer and nothing may go on without it.
_STORE_RETRY_S = 1.0
# When an answer of a key may have ended: nobody knows, and asking costs little.
_BUSY_RETRY_S = 1.0


class _Reserved(NamedTuple):
    """Tokens taken, the time of that on the clock of who counted them, and whether that was this process."""

    tokens: int = 0
    at_ms: int = 0
    here: bool = False


class Admission:
    """The place of one admitted request. `settle` is called once it has ended; further calls do nothing."""

    def __init__(self, limiter: Limiter, record: KeyRecord, reserved: _Reserved) -> None:
        self._limiter = limiter
        self._record = record
        self._reserved = reserved
        self._open = True

    def settle(self, used_tokens: int) -> None:
        """Gives back what was reserved and not used."""
        if self._open:
            self._open = False
            unused = max(0, self._reserved.tokens - used_tokens)
            self._limiter.settle(self._record, self._reserved._replace(tokens=unused))


class _Seen(NamedTuple):
    """What was left of a minute, and when it is whole again."""

    left: int
    full_after_s: float


class Limiter:
    """Keeps keys to their limits. `close` ends what it still tells the store."""

    def __init__(
        self,
        keys: KeyRing,
        store: SharedStore,
        *,
        without_store: str = "count",
        lease_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`without_store`: `count` here while the store does not answer, or `refuse`. `lease_s`: how long the answers
        of a router that has died still count among those under way.
        """
        self._keys = keys
        self._store = store
        self._refuses = without_store == "refuse"
        self._lease_s = lease_s
        self._own = MemoryBackend(0)
        self._tasks = TaskOwner()
        self._telling: set[asyncio.Task[None]] = set()
        self._keeping = False
        self._holder = new_id()
        self._number = 0
        self._running: dict[str, int] = {}
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._clock = clock
        # When keys that have made all requests of their minute may make the next one.
        self._next: dict[str, float] = {}

    async def close(self) -> None:
        """Tells the store what is still to be told, each in its limit of time, and ends."""
        await asyncio.gather(*self._telling, return_exceptions=True)
        await self._tasks.close()

    def check(self, call: Call) -> None:
        """Refuses at once what is known to be refused: a request of a key that has made all of its minute, or has as
        many under way as it may have. Costs next to nothing, and is asked before any work. Raises RateLimited.
        """
        record = self._keys.record(call.key_id)
        if record is None or not record.limited:
            return
        if record.concurrency is not None and self._running.get(record.name, 0) >= record.concurrency:
            raise _busy(record.concurrency)
        until = self._next.get(record.name)
        if until is None or record.rpm is None:
            return
        wait_s = until - self._clock()
        if wait_s > 0:
            raise _too_fast(record, wait_s)
        del self._next[record.name]

    @contextlib.asynccontextmanager
    async def admitted(self, call: Call, prepared: Prepared) -> AsyncIterator[tuple[Call, Prepared]]:
        """Admits a request, or raises RateLimited. The block gets call and request as they may be answered; whoever
        answers settles `call.admission`, unless the block fails.
        """
        record = self._keys.record(call.key_id) if call.key_id else None
        if record is None or not record.limited:
            yield call, prepared
            return
        prepared = _within(record, prepared)
        reserved = await self._take(record, _prompt_tokens(prepared) + _answer_tokens(prepared))
        admission = Admission(self, record, reserved)
        try:
            yield replace(call, admission=admission), prepared
        except BaseException:
            admission.settle(0)
            raise

    @contextlib.asynccontextmanager
    async def counted(self, call: Call) -> AsyncIterator[None]:
        """Admits a request that generates nothing, or raises RateLimited: it counts among requests, and among what is
        under way inside the block; not among tokens.
        """
        record = self._keys.record(call.key_id) if call.key_id else None
        if record is None or not record.limited:
            yield
            return
        reserved = await self._take(record, 0)
        try:
            yield
        finally:
            self.settle(record, reserved)

    def settle(self, record: KeyRecord, unused: _Reserved) -> None:
        """Ends one request of a key."""
        running = self._running.get(record.name, 0) - 1
        if running > 0:
            self._running[record.name] = running
        else:
            self._running.pop(record.name, None)
        places = self._places(record)
        back = [Window(_TOKENS, unused.tokens, record.tpm, _MINUTE_S)] if record.tpm and unused.tokens else []
        if places is None and not back:
            return
        task = self._tasks.start(self._give_back(record.name, unused, back, places), name="unused tokens")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def headers(self, key_id: str) -> Mapping[str, str]:
        """Returns what a reply says about the limits of its caller's key, after the newest of its requests."""
        record = self._keys.record(key_id)
        if record is None:
            return {}
        headers: dict[str, str] = {}
        for name, limit in ((_REQUESTS, record.rpm), (_TOKENS, record.tpm)):
            seen = self._seen.get((key_id, name))
            if limit is not None and seen is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, min(limit, seen.left)))
                headers[f"x-ratelimit-reset-{name}"] = f"{seen.full_after_s:.3f}s"
        return headers

    async def _take(self, record: KeyRecord, tokens: int) -> _Reserved:
        """Takes one request's share. Raises RateLimited."""
        running = self._running.get(record.name, 0)
        if record.concurrency is not None and running >= record.concurrency:
            raise _busy(record.concurrency)
        # Counted before the store is asked: what comes meanwhile must see it.
        self._running[record.name] = running + 1
        try:
            return await self._take_rates(record, tokens)
        except BaseException:
            self.settle(record, _Reserved())
            raise

    async def _take_rates(self, record: KeyRecord, tokens: int) -> _Reserved:
        windows = []
        if record.rpm is not None:
            windows.append(Window(_REQUESTS, 1, record.rpm, _MINUTE_S))
        if record.tpm is not None and tokens:
            windows.append(Window(_TOKENS, tokens, record.tpm, _MINUTE_S))
        places = self._places(record)
        if not windows and places is None:
            return _Reserved()
        taken = await self._store.take(_scope(record.name), windows, places)
        here = taken is None
        if taken is None:
            if self._refuses:
                reason = "limits cannot be checked now: the store does not answer"
                raise Unavailable(reason, retry_after_s=_STORE_RETRY_S)
            taken = await self._own.take(_scope(record.name), windows, None)
        self._note(record.name, windows, taken)
        if not taken.allowed:
            self._note_refusal(record, windows, taken)
            raise _busy(record.concurrency) if taken.busy else _too_fast(record, taken.retry_after_s)
        if places is not None and not self._keeping:
            self._keeping = True
            self._tasks.start(self._keep_places(), name="places of keys")
        return _Reserved(tokens if record.tpm is not None else 0, taken.at_ms, here)

    def _note_refusal(self, record: KeyRecord, windows: Sequence[Window], taken: Taken) -> None:
        # Requests are not given back: while a minute holds them all, no other one can be let in. The time to wait is
        # theirs where nothing else was missing.
        missing = [window.name for window, left in zip(windows, taken.left, strict=True) if left < window.cost]
        if missing == [_REQUESTS]:
            if len(self._next) >= _MAX_SEEN:
                self._next.clear()
            self._next[record.name] = self._clock() + taken.retry_after_s

    def _note(self, name: str, windows: Sequence[Window], taken: Taken) -> None:
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        for window, left, full_after_s in zip(windows, taken.left, taken.full_after_s, strict=True):
            self._seen[name, window.name] = _Seen(left, full_after_s)

    def _places(self, record: KeyRecord) -> Places | None:
        """Returns how many answers of a key this router has under way, for the others; None where nobody else asks."""
        if record.concurrency is None or not self._store.shared:
            return None
        self._number += 1
        held = self._running.get(record.name, 0)
        return Places(self._holder, held, record.concurrency, self._number, self._lease_s)

    async def _keep_places(self) -> None:
        """Says again and again which answers are under way, as long as there are some."""
        try:
            while self._running:
                await asyncio.sleep(self._lease_s / 3)
                for name in list(self._running):
                    record = self._keys.record(name)
                    places = self._places(record) if record is not None else None
                    if places is not None:
                        await self._store.give_back(_scope(name), 0, (), places)
        finally:
            self._keeping = False

    async def _give_back(self, name: str, unused: _Reserved, back: Sequence[Window], places: Places | None) -> None:
        if not unused.here:
            await self._store.give_back(_scope(name), unused.at_ms, back, places)
            return
        await self._own.give_back(_scope(name), unused.at_ms, back, None)
        if places is not None:
            await self._store.give_back(_scope(name), 0, (), places)


def _busy(limit: int | None) -> RateLimited:
    return RateLimited(
        f"{limit} requests of this key are under way, the most it may have at a time",
        metadata={"limit": "concurrency"},
        retry_after_s=_BUSY_RETRY_S,
    )


def _too_fast(record: KeyRecord, retry_after_s: float) -> RateLimited:
    limits = ((_REQUESTS, record.rpm), (_TOKENS, record.tpm))
    what = " and ".join(f"{limit:,} {name} a minute" for name, limit in limits if limit is not None)
    return RateLimited(
        f"this key may use {what}; wait {retry_after_s:.1f} s",
        metadata={"limit": "rate"},
        retry_after_s=retry_after_s,
    )


def _scope(name: str) -> str:
    return f"limits:{name}"


def _prompt_tokens(prepared: Prepared) -> int:
    return sum(map(len, prepared.prompts))


def _answer_tokens(prepared: Prepared) -> int:
    return prepared.sampling.max_tokens * prepared.choices * len(prepared.prompts)


def _within(record: KeyRecord, prepared: Prepared) -> Prepared:
    """The request as the key may have it: no longer, and no more urgent.

    Raises RateLimited for a prompt that is too long for any minute.
    """
    longest = prepared.sampling.max_tokens
    if record.max_tokens is not None:
        longest = min(longest, record.max_tokens)
    if record.tpm is not None:
        room = record.tpm - _prompt_tokens(prepared)
        share = room // (prepared.choices * len(prepared.prompts))
        if share < 1:
            raise RateLimited(
                f"prompt and answer need more than the {record.tpm:,} tokens that this key may use in a minute",
                metadata={"limit": "tokens"},
            )
        longest = min(longest, share)
    prepared.sampling.max_tokens = longest
    if prepared.sampling.min_tokens > longest:
        prepared.sampling.min_tokens = longest
    if record.priority is not None and prepared.priority > record.priority:
        return replace(prepared, priority=record.priority)
    return prepared
