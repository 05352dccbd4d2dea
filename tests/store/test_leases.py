"""A lease is renewed until its process ends, and not once more."""

from __future__ import annotations

import asyncio

import pytest

from qwenserve.runtime.deadlines import within
from qwenserve.store.leases import Lease
from qwenserve.store.memory import MemoryBackend
from qwenserve.store.shared import SharedStore

LONG_S = 600.0
LIMIT_S = 30.0


@pytest.mark.parametrize("turns", range(4))
async def test_a_lease_that_is_cancelled_just_after_a_change_ends(turns: int) -> None:
    """Whichever turn of the event loop the cancellation meets: if it were lost, a process could not end."""
    renewed = asyncio.Event()

    def payload() -> bytes:
        renewed.set()
        return b"here"

    store = SharedStore(MemoryBackend(1 << 20), timeout_s=LIMIT_S, where="test")
    lease = Lease(store, "group", "member", payload, ttl_s=LONG_S)
    keeping = asyncio.get_running_loop().create_task(lease.keep())
    await within(LIMIT_S, renewed.wait())

    lease.changed()
    for _ in range(turns):
        await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.wait({keeping}, timeout=LIMIT_S)

    assert keeping.cancelled()
    await store.close()
