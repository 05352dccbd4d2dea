"""What a tokenizer publishes in the store about itself: for people who ask what runs (`qwenserve ps --cluster`)."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable

from qwenserve.cluster.v1 import announcement_pb2
from qwenserve.runtime.addresses import reachable_address
from qwenserve.runtime.config import Config
from qwenserve.store.leases import kept
from qwenserve.store.opening import open_store

GROUP = "tokenizers"


@contextlib.asynccontextmanager
async def announced(config: Config, port: int, draining: Callable[[], bool]) -> AsyncIterator[Callable[[], None]]:
    """Keeps a lease inside the block, and ends it after. Yields what is called when `draining` has changed.

    Without a shared store nothing is published.
    """
    if not config.store.url:
        yield lambda: None
        return
    store = open_store(config.store)
    host, pid, started = socket.gethostname(), os.getpid(), int(time.time() * 1000)

    def announcement() -> bytes:
        return announcement_pb2.Announcement(
            tier=announcement_pb2.TIER_TOKENIZER,
            name=f"tokenizer-{pid}",
            address=reachable_address(config.tokenizer.host, port),
            model=config.model_name,
            state=announcement_pb2.STATE_DRAINING if draining() else announcement_pb2.STATE_READY,
            host=host,
            pid=pid,
            started_ms=started,
        ).SerializeToString()

    try:
        member = f"tokenizer@{host}:{pid}"
        async with kept(store, GROUP, member, announcement, ttl_s=config.store.lease_s) as changed:
            yield changed
    finally:
        await store.close()
