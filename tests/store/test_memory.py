"""The in-process store: its bounds, on a clock of its own. What all stores do is in test_contract.py."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwenserve.store.interface import WINDOW_PARTS, Window
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


async def test_the_wait_is_the_time_until_a_window_has_what_was_asked():
    """Neither earlier nor later; a window of ten seconds has parts of a sixth of a second."""
    clock = Clock()
    store = MemoryBackend(10_000, clock)
    window = Window("requests", 3, 10, 10.0)
    for _ in range(3):
        assert (await store.take("key", [window], None)).allowed
        clock.now += 1.0

    refused = await store.take("key", [window], None)
    assert refused.left == (1,)
    assert 7.0 < refused.retry_after_s <= 7.0 + 2 * 10.0 / WINDOW_PARTS
    clock.now += refused.retry_after_s - 0.01
    assert not (await store.take("key", [window], None)).allowed
    clock.now += 0.01
    assert (await store.take("key", [window], None)).allowed


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


@given(
    asks=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 5), st.integers(0, 3)), max_size=60),
)
async def test_no_span_of_a_window_holds_more_than_its_limit(asks: list[tuple[int, int, int]]):
    """Whenever and however much is asked for, and whatever part is given back at once."""
    clock = Clock()
    store = MemoryBackend(10_000, clock)
    used: list[tuple[float, int]] = []
    for pause_ms, cost, back in asks:
        clock.now += pause_ms / 1000
        window = Window("requests", cost, 10, 3.0)
        taken = await store.take("key", [window], None)
        if taken.allowed:
            given = min(back, cost)
            await store.give_back("key", taken.at_ms, [window._replace(cost=given)], None)
            used.append((clock.now, cost - given))
    for begin, _ in used:
        assert sum(amount for at, amount in used if begin <= at < begin + 3.0) <= 10
