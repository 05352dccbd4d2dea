"""What a router publishes in the store about itself: for people who ask what runs (`qwenserve ps --cluster`)."""

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
from qwenserve.store.shared import SharedStore

GROUP = "routers"


@contextlib.asynccontextmanager
async def announced(
    store: SharedStore, config: Config, grpc_port: int, http_port: int, why_not_ready: Callable[[], str]
) -> AsyncIterator[None]:
    """Keeps a lease inside the block, and ends it after. In a store that only this process sees nothing is told."""
    if not store.shared:
        yield
        return
    host, pid, started = socket.gethostname(), os.getpid(), int(time.time() * 1000)

    def announcement() -> bytes:
        reason = why_not_ready()
        state = announcement_pb2.STATE_NOT_READY if reason else announcement_pb2.STATE_READY
        return announcement_pb2.Announcement(
            tier=announcement_pb2.TIER_ROUTER,
            name=f"router-{pid}",
            address=reachable_address(config.router.host, grpc_port),
            http_address=reachable_address(config.http.host, http_port) if http_port else "",
            tls=bool(config.tls.cert_file),
            model=config.model_name,
            state=announcement_pb2.STATE_DRAINING if reason == "draining" else state,
            host=host,
            pid=pid,
            started_ms=started,
        ).SerializeToString()

    async with kept(store, GROUP, f"router@{host}:{pid}", announcement, ttl_s=config.store.lease_s):
        yield
