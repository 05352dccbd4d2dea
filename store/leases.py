"""Leases: a process announces itself at intervals, and others see which processes are there.

A lease is renewed three times in its life, so that two renewals in a row may fail. Whoever follows a group asks for it
at intervals: a question that always gives the whole truth needs no repair after a restart of the store or a lost
message, and a hundred routers that ask once a second are no load for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

from qwenserve.runtime.deadlines import within
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.store.shared import SharedStore

_RENEWALS = 3
# The pause after a failed renewal: short, so that a store that is back soon knows every member again.
_AGAIN_S = 1.0


class Lease:
    """One process's announcement. `payload` returns what to publish; it is called at every renewal."""

    def __init__(
        self, store: SharedStore, group: str, member: str, payload: Callable[[], bytes], *, ttl_s: float
    ) -> None:
        self._store = store
        self._group = group
        self._member = member
        self._payload = payload
        self._ttl_s = ttl_s
        self._changed = asyncio.Event()

    async def keep(self) -> None:
        """Renews until cancelled. While the store cannot be reached it keeps trying."""
        while True:
            self._changed.clear()
            stands = await self._store.renew(self._group, self._member, self._payload(), ttl_s=self._ttl_s)
            pause = self._ttl_s / _RENEWALS
            with contextlib.suppress(asyncio.TimeoutError):
                await within(pause if stands else min(pause, _AGAIN_S), self._changed.wait())

    def changed(self) -> None:
        """The payload has changed: the task in `keep` renews at once."""
        self._changed.set()

    async def end(self) -> None:
        """Withdraws the lease: the process is going. Called when `keep` has ended."""
        await self._store.withdraw(self._group, self._member)


@contextlib.asynccontextmanager
async def kept(
    store: SharedStore, group: str, member: str, payload: Callable[[], bytes], *, ttl_s: float
) -> AsyncIterator[Callable[[], None]]:
    """Keeps a lease inside the block, and withdraws it after. Yields what is called when the payload has changed."""
    lease = Lease(store, group, member, payload, ttl_s=ttl_s)
    tasks = TaskOwner()
    tasks.start(lease.keep(), name="lease")
    try:
        yield lease.changed
    finally:
        await tasks.close()
        await lease.end()


async def follow(store: SharedStore, group: str, *, every_s: float) -> AsyncIterator[Mapping[str, bytes] | None]:
    """Yields the living members at intervals, for ever; None whenever they cannot be known."""
    while True:
        yield await store.members(group)
        await asyncio.sleep(every_s)
