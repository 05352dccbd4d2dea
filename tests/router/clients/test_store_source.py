"""Workers from the store, on recorded looks."""

from __future__ import annotations

import socket

from qwenserve.cluster.v1 import announcement_pb2
from qwenserve.router.clients.store_source import StoreWorkers
from qwenserve.store.memory import MemoryBackend
from qwenserve.store.shared import SharedStore

HERE = socket.gethostname()
WORKER, ROUTER = announcement_pb2.TIER_WORKER, announcement_pb2.TIER_ROUTER


class Members:
    """A directory that writes down what it is told. `connected` has the addresses with a session."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.connected: set[str] = set()
        self.now = 0.0
        store = SharedStore(MemoryBackend(1 << 20), timeout_s=1.0, where="test")
        self.source = StoreWorkers(
            store,
            "Tiny",
            lease_s=10.0,
            connected=lambda address: address in self.connected,
            fixed=["fixed:1"],
            clock=lambda: self.now,
        )

    def join(self, address: str) -> None:
        self.told.append(f"+{address}")

    def leave(self, address: str) -> None:
        self.told.append(f"-{address}")

    def look(self, now: float, *values: bytes) -> list[str]:
        """Looks at these values; returns what it was told."""
        self.now = now
        self.told.clear()
        self.source.look({str(index): value for index, value in enumerate(values)}, self)
        return list(self.told)

    def look_in_vain(self, now: float) -> list[str]:
        self.now = now
        self.told.clear()
        self.source.look(None, self)
        return list(self.told)


def said(address: str, *, model: str = "tiny", tier: announcement_pb2.Tier = WORKER, host: str = "gpu7") -> bytes:
    return announcement_pb2.Announcement(tier=tier, address=address, model=model, host=host).SerializeToString()


def test_workers_come_and_go():
    """A worker joins when it is first seen, and leaves when its lease and its session have ended."""
    members = Members()

    assert members.look(0, said("a:1"), said("b:1")) == ["+a:1", "+b:1"]
    assert members.look(1, said("a:1"), said("b:1")) == []
    assert members.look(2, said("a:1")) == []
    assert members.look(12, said("a:1")) == ["-b:1"]
    assert members.look(13, said("a:1"), said("b:1")) == ["+b:1"]


def test_a_worker_with_a_session_stays():
    """A store that is full lets leases run out of workers that are well: the session knows better."""
    members = Members()
    members.look(0, said("a:1"))
    members.connected.add("a:1")
    members.look(1)

    assert members.look(50) == []
    members.connected.clear()
    assert members.look(51) == ["-a:1"]
    assert members.look(52) == []


def test_a_worker_that_is_back_before_its_session_ends_stays():
    """Its lease counts again from then on."""
    members = Members()
    members.look(0, said("a:1"))
    members.connected.add("a:1")
    members.look(1)
    members.look(20)
    members.look(21, said("a:1"))
    members.connected.clear()

    assert members.look(22, said("a:1")) == []


def test_a_store_that_is_away_changes_nothing():
    """However long it is away, and for the time of a lease after it came back empty."""
    members = Members()
    members.look(0, said("a:1"))

    assert members.look_in_vain(100) == []
    assert members.look(101) == []
    assert members.look(105, said("a:1")) == []


def test_only_workers_of_the_model_are_dialled():
    """Other models, tiers, and whatever is no announcement or no address are left alone."""
    members = Members()

    assert members.look(
        0,
        said("other:1", model="large"),
        said("router:1", tier=ROUTER),
        said("fixed:1"),
        said("no port"),
        said("http://evil/:1"),
        said("unix:/tmp/socket:1"),
        said(""),
        b"\xff\xff\xff",
        said("[fd00::7]:1"),
        said("gpu7.lan:1", model="TINY"),
    ) == ["+[fd00::7]:1", "+gpu7.lan:1"]
    assert members.source.known() == ("fixed:1",)


def test_another_machines_loopback_is_not_ours():
    """There, something else listens."""
    members = Members()

    assert members.look(0, said("127.0.0.1:1"), said("localhost:1"), said("[::1]:1")) == []
    assert members.look(1, said("127.0.0.1:1", host=HERE)) == ["+127.0.0.1:1"]
