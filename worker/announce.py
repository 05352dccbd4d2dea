"""What a worker publishes in the store about itself, so that routers find it."""

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
from qwenserve.worker.v1 import worker_pb2

GROUP = "workers"


@contextlib.asynccontextmanager
async def announced(
    store: SharedStore | None, config: Config, port: int, describe: Callable[[], worker_pb2.WorkerInfo]
) -> AsyncIterator[Callable[[], None]]:
    """Keeps a lease inside the block, and ends it after. Yields what is called when `describe` has something new.

    Without a shared store nothing is published.
    """
    if store is None:
        yield lambda: None
        return
    settings, host, started = config.worker, socket.gethostname(), int(time.time() * 1000)

    def announcement() -> bytes:
        info = describe()
        return announcement_pb2.Announcement(
            tier=announcement_pb2.TIER_WORKER,
            name=settings.name,
            address=reachable_address(settings.host, port, settings.advertise),
            model=info.model,
            state=announcement_pb2.STATE_DRAINING if info.draining else announcement_pb2.STATE_READY,
            host=host,
            pid=os.getpid(),
            started_ms=started,
            worker=info,
        ).SerializeToString()

    member = f"{settings.name}@{host}:{os.getpid()}"
    async with kept(store, GROUP, member, announcement, ttl_s=config.store.lease_s) as changed:
        yield changed
