"""What each key may use: requests and tokens a minute, answers at a time, longest answer, highest priority.

A minute's allowance can be used at once and comes back evenly. Tokens are taken before the answer, for the prompt and
the longest answer that the request allows, and what was not used is given back at its end: so nobody gets ahead by
asking for many answers at a time. Rates are counted in the store, for all routers together; answers at a time in each
router.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from qwenserve.router.chat.call import Call
from qwenserve.router.chat.prepare import Prepared
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.errors import RateLimited, Unavailable
from qwenserve.runtime.keys import KeyRecord
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.store.interface import Bucket, Taken
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


class Admission:
    """The place of one admitted request. `settle` is called once it has ended; further calls do nothing."""

    def __init__(self, limiter: Limiter, record: KeyRecord, reserved: int) -> None:
        self._limiter = limiter
        self._record = record
        self._reserved = reserved
        self._open = True

    def settle(self, used_tokens: int) -> None:
        """Gives back what was reserved and not used."""
        if self._open:
            self._open = False
            self._limiter.settle(self._record, self._reserved - used_tokens)


class _Seen(NamedTuple):
    requests_left: float
    tokens_left: float


class Limiter:
    """Keeps keys to their limits. `close` ends what it still tells the store."""

    def __init__(self, keys: KeyRing, store: SharedStore, *, without_store: str = "count") -> None:
        """`without_store`: `count` here while the store does not answer, or `refuse`."""
        self._keys = keys
        self._store = store
        self._refuses = without_store == "refuse"
        self._own = MemoryBackend(0)
        self._tasks = TaskOwner()
        self._running: dict[str, int] = {}
        self._seen: dict[str, _Seen] = {}

    async def close(self) -> None:
        """Ends what is still being told to the store."""
        await self._tasks.close()

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
        reserved = await self._take(record, prepared)
        admission = Admission(self, record, reserved)
        try:
            yield call._replace(admission=admission), prepared
        except BaseException:
            admission.settle(0)
            raise

    def settle(self, record: KeyRecord, unused: int) -> None:
        """Ends one request of a key."""
        running = self._running.get(record.name, 0) - 1
        if running > 0:
            self._running[record.name] = running
        else:
            self._running.pop(record.name, None)
        if record.tpm is not None and unused > 0:
            back = Bucket(_TOKENS, -unused, record.tpm, record.tpm / _MINUTE_S)
            self._tasks.start(self._give_back(record.name, back), name="unused tokens")

    def headers(self, key_id: str) -> Mapping[str, str]:
        """Returns what a reply says about the limits of its caller's key, after the newest of its requests."""
        record = self._keys.record(key_id)
        seen = self._seen.get(key_id)
        if record is None or seen is None:
            return {}
        headers: dict[str, str] = {}
        for name, limit, left in (
            (_REQUESTS, record.rpm, seen.requests_left),
            (_TOKENS, record.tpm, seen.tokens_left),
        ):
            if limit is not None:
                left = max(0.0, min(limit, left))
                headers[f"x-ratelimit-limit-{name}"] = str(limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(int(left))
                headers[f"x-ratelimit-reset-{name}"] = f"{(limit - left) / limit * _MINUTE_S:.3f}s"
        return headers

    async def _take(self, record: KeyRecord, prepared: Prepared) -> int:
        """Takes one request's share; returns the tokens reserved. Raises RateLimited."""
        running = self._running.get(record.name, 0)
        if record.concurrency is not None and running >= record.concurrency:
            raise RateLimited(
                f"{running} answers of this key are under way, the most it may have at a time",
                metadata={"limit": "concurrency"},
                retry_after_s=_BUSY_RETRY_S,
            )
        # Counted before the store is asked: what comes meanwhile must see it.
        self._running[record.name] = running + 1
        try:
            return await self._take_rates(record, prepared)
        except BaseException:
            self.settle(record, 0)
            raise

    async def _take_rates(self, record: KeyRecord, prepared: Prepared) -> int:
        tokens = _prompt_tokens(prepared) + _answer_tokens(prepared)
        buckets = []
        if record.rpm is not None:
            buckets.append(Bucket(_REQUESTS, 1, record.rpm, record.rpm / _MINUTE_S))
        if record.tpm is not None:
            buckets.append(Bucket(_TOKENS, tokens, record.tpm, record.tpm / _MINUTE_S))
        if not buckets:
            return 0
        taken = await self._ask(record.name, buckets)
        left = dict(zip((bucket.name for bucket in buckets), taken.left, strict=False))
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        self._seen[record.name] = _Seen(left.get(_REQUESTS, 0.0), left.get(_TOKENS, 0.0))
        if not taken.allowed:
            what = " and ".join(
                f"{limit:,} {name} a minute"
                for name, limit in ((_REQUESTS, record.rpm), (_TOKENS, record.tpm))
                if limit is not None
            )
            raise RateLimited(
                f"this key may use {what}; wait {taken.retry_after_s:.1f} s",
                metadata={"limit": "rate"},
                retry_after_s=taken.retry_after_s,
            )
        return tokens if record.tpm is not None else 0

    async def _ask(self, name: str, buckets: list[Bucket]) -> Taken:
        taken = await self._store.take(_scope(name), buckets)
        if taken is not None:
            return taken
        if self._refuses:
            raise Unavailable("limits cannot be checked now: the store does not answer", retry_after_s=_STORE_RETRY_S)
        return await self._own.take(_scope(name), buckets)

    async def _give_back(self, name: str, bucket: Bucket) -> None:
        if await self._store.take(_scope(name), [bucket]) is None:
            await self._own.take(_scope(name), [bucket])


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
        return prepared._replace(priority=record.priority)
    return prepared
