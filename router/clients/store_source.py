"""Workers that announce themselves in the store: a `WorkerSource`."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from google.protobuf.message import DecodeError

from qwenserve.cluster.v1 import announcement_pb2
from qwenserve.router.clients.worker_source import Membership
from qwenserve.runtime.logs import EventLog
from qwenserve.store.leases import follow
from qwenserve.store.presence import Presence
from qwenserve.store.shared import SharedStore

_log = EventLog("workers")

GROUP = "workers"
_LOOK_S = 1.0
# Only what is plainly a host and a port is dialled.
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.\-]{1,253}):[0-9]{1,5}\Z")
_LOOPBACK = re.compile(r"127\.|localhost:|\[::1\]")
# A store that anybody can write to must not make a router dial without end.
_MAX_WORKERS = 4096


class StoreWorkers:
    """Tells of workers of one model as they come and go, besides a fixed list that stays.

    A worker whose lease has ended is dropped once its session has ended too: the session sees the worker itself, while
    a store that is full or read-only lets the leases of healthy workers run out.
    """

    def __init__(
        self,
        store: SharedStore,
        model: str,
        *,
        lease_s: float,
        connected: Callable[[str], bool],
        fixed: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connected` says whether the router has a session with an address now."""
        self._store = store
        self._model = model.lower()
        self._connected = connected
        self._fixed = tuple(fixed)
        self._clock = clock
        self._host = socket.gethostname()
        self._presence = Presence(lease_s)
        self._expired: set[str] = set()

    def known(self) -> Sequence[str]:
        """Returns the fixed list."""
        return self._fixed

    async def follow(self, members: Membership) -> None:
        """Tells `members` of whoever comes and goes, until cancelled."""
        async for values in follow(self._store, GROUP, every_s=_LOOK_S):
            self.look(values, members)

    def look(self, values: Mapping[str, bytes] | None, members: Membership) -> None:
        """Reads the store's values once; None where the store could not be asked."""
        addresses = None if values is None else self._addresses(values.values())
        seen = self._presence.look(addresses, self._clock())
        for address in sorted(seen.came):
            self._expired.discard(address)
            members.join(address)
        self._expired |= seen.gone
        for address in sorted(self._expired):
            if not self._connected(address):
                self._expired.discard(address)
                members.leave(address)
                _log.info("worker_expired", address=address)

    def _addresses(self, values: Collection[bytes]) -> set[str]:
        found: set[str] = set()
        for value in values:
            try:
                said = announcement_pb2.Announcement.FromString(value)
            except DecodeError:
                continue
            if said.tier != announcement_pb2.TIER_WORKER or said.model.lower() != self._model:
                continue
            if not _ADDRESS.match(said.address) or said.address in self._fixed or len(found) >= _MAX_WORKERS:
                continue
            # Another machine's loopback address would lead to whatever listens there on this one.
            if said.host == self._host or not _LOOPBACK.match(said.address):
                found.add(said.address)
        return found
