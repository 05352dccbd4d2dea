"""The in-process store: its bounds, on a clock of its own. What all stores do is in test_contract.py."""

from __future__ import annotations

from qwenserve.store.interface import Bucket
from qwenserve.store.memory import MemoryBackend


class Clock:
    """A clock that stands still until told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_it_is_bounded_in_bytes():
    """Whatever is put there, it takes no more than it may; what was used last stays."""
    store = MemoryBackend(10_000)
    for index in range(100):
        await store.put(f"k{index}", bytes(800), 60)
        await store.get("k0", 1000)

        assert store.bytes_used <= 10_000
    assert await store.get("k0", 1000) is not None
    assert await store.get("k99", 1000) is not None
    assert await store.get("k50", 1000) is None
    await store.put("huge", bytes(20_000), 60)
    assert await store.get("huge", 30_000) is None
    assert await store.get("k0", 1000) is not None


async def test_expired_values_give_their_room_back():
    """A value that is asked for after its time is gone, with its bytes."""
    clock = Clock()
    store = MemoryBackend(10_000, clock)
    await store.put("a", b"1", 5)
    clock.now += 4.9
    assert await store.get("a", 10) == b"1"
    clock.now += 0.1

    assert await store.get("a", 10) is None
    assert store.bytes_used == 0


async def test_buckets_gain_with_time():
    """A bucket's wait is the time until it has what was asked."""
    clock = Clock()
    store = MemoryBackend(10_000, clock)
    bucket = Bucket("requests", 3, 10, 2.0)
    for _ in range(3):
        assert (await store.take("key", [bucket])).allowed

    refused = await store.take("key", [bucket])
    clock.now += refused.retry_after_s

    assert refused.retry_after_s == 1.0
    assert (await store.take("key", [bucket])).allowed


async def test_logs_share_the_bound():
    """Values and logs together take no more than the store may; an expired log gives its room back."""
    clock = Clock()
    store = MemoryBackend(10_000, clock)
    for index in range(30):
        await store.append(f"log{index % 5}", bytes(800), 100, 60)
        await store.put(f"k{index}", bytes(100), 60)

        assert store.bytes_used <= 10_000
    assert await store.since("log4", "", 100) != []
    clock.now += 61

    for index in range(5):
        assert await store.since(f"log{index}", "", 100) == []
        assert [await store.get(f"k{number}", 1) for number in range(30)] == [None] * 30
    assert store.bytes_used == 0
