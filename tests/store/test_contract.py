"""What every store must do; the in-process one and a real server go through the same."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from qwenserve.store.interface import WINDOW_PARTS, Backend, News, Places, Window
from qwenserve.store.memory import MemoryBackend
from tests.store.servers import backend_of, running_cluster, running_redis, running_sentinel, why_none

LONG_S = 60.0
SOON_S = 0.05
LIMIT_S = 20.0


# One server of each kind for all tests, which have keys of their own: starting a cluster takes seconds.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@contextlib.asynccontextmanager
async def running_single() -> AsyncIterator[str]:
    """Runs one server inside the block; yields its URL."""
    async with running_redis() as server:
        yield server.url


PREFIXES = itertools.count()
ARRANGEMENTS = {"redis": running_single, "cluster": running_cluster, "sentinel": running_sentinel}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["memory", "redis", "cluster", "sentinel"])
async def place(request) -> AsyncIterator[str]:
    """The URL of a store of each kind; empty for the in-process one."""
    if request.param == "memory":
        yield ""
        return
    if why_none():
        pytest.skip(why_none())
    async with ARRANGEMENTS[request.param]() as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def store(place: str) -> AsyncIterator[Backend]:
    """One store of each kind, empty."""
    if not place:
        yield MemoryBackend(1 << 20)
        return
    backend = backend_of(place, prefix=f"test{next(PREFIXES)}")
    yield backend
    await backend.close()


async def until_none(look: Callable[[], Awaitable[object]]) -> None:
    """Waits until `look` finds nothing any more."""

    async def wait() -> None:
        while await look():  # noqa: ASYNC110  # a server elsewhere offers no event
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), LIMIT_S)


async def test_values(store: Backend):
    """What was put is there, byte for byte; what was not, or was deleted, is not."""
    await store.ping()
    value = bytes(range(256)) * 10

    assert not await store.get("a", 10_000)
    await store.put("a", value, LONG_S)
    assert await store.get("a", 10_000) == value
    await store.put("a", b"new", LONG_S)
    assert await store.get("a", 10_000) == b"new"
    await store.delete("a")
    assert not await store.get("a", 10_000)
    await store.delete("a")


async def test_several_values_at_once(store: Backend):
    """Each is there, and lives for its time."""
    await store.put_all([(f"k{index}", b"%d" % index) for index in range(10)], LONG_S)
    await store.put_all([], LONG_S)
    await store.put_all([("k1", b"x")], SOON_S)

    await until_none(lambda: store.get("k1", 10))
    assert [await store.get(f"k{index}", 10) for index in (0, 9)] == [b"0", b"9"]


async def test_news_come_behind_the_values(store: Backend):
    """Who reads the log finds the values there."""
    assert await store.since("news", "", 10) == []
    for number in range(2):
        value = [(f"n{number}", b"x")]
        await store.put_all(value, LONG_S, news=News("news", b"%d" % number, 100, LONG_S))

    assert [entry.value for entry in await store.since("news", "", 10)] == [b"0", b"1"]
    assert await store.get("n1", 10) == b"x"


async def test_keys(store: Backend, place: str):
    """Keys of values can be read, page by page; none of other things, and none that begins otherwise."""
    assert store.lists_keys is not place.startswith("redis+cluster")
    if not store.lists_keys:
        return
    names = {f"listed:{number}" for number in range(1500)}
    await store.put_all([(name, b"x") for name in names], LONG_S)
    await store.put("l*", b"x", LONG_S)
    await store.append("listed:log", b"x", 3, LONG_S)

    for begin, there in (("listed:", names), ("l*", {"l*"}), ("[l", set())):
        found: list[str] = []
        at = -1
        while at:
            page = await store.keys(begin, max(at, 0))
            found += page.keys
            at = page.following
        assert set(found) == there


async def test_long_values_are_read_to_the_limit_only(store: Backend):
    """A value beyond the limit shows by its length, and costs no more than the limit."""
    await store.put("a", b"x" * 1000, LONG_S)

    assert await store.get("a", 1000) == b"x" * 1000
    assert await store.get("a", 999) == b"x" * 1000
    assert await store.get("a", 10) == b"x" * 11


async def test_values_expire(store: Backend):
    """A value lives for its time; putting it again gives it a new one."""
    await store.put("short", b"1", SOON_S)
    await store.put("renewed", b"1", SOON_S)
    await store.put("renewed", b"2", LONG_S)

    await until_none(lambda: store.get("short", 10))
    assert await store.get("renewed", 10) == b"2"


async def test_logs(store: Backend):
    """What was added is there in its order, from any place on, as much as is kept; logs do not mix."""
    assert await store.since("log", "", 10) == []
    for number in range(4):
        await store.append("log", b"%d" % number, 3, LONG_S)
    await store.append("another", b"x", 3, LONG_S)

    entries = await store.since("log", "", 10)
    assert [entry.value for entry in entries] == [b"1", b"2", b"3"]
    assert [entry.value for entry in await store.since("log", entries[0].place, 10)] == [b"2", b"3"]
    assert [entry.value for entry in await store.since("log", entries[0].place, 1)] == [b"2"]
    assert await store.since("log", entries[-1].place, 10) == []
    await store.append("log", b"4", 3, LONG_S)
    assert [entry.value for entry in await store.since("log", entries[-1].place, 10)] == [b"4"]


async def test_logs_expire(store: Backend):
    """A log to which nothing is added goes as a whole."""
    await store.append("log", b"1", 3, SOON_S)

    await until_none(lambda: store.since("log", "", 10))


async def test_leases(store: Backend):
    """Members of a group are those with a lease that stands; groups do not mix."""
    assert await store.members("workers") == {}

    await store.renew("workers", "a", b"1", LONG_S)
    await store.renew("workers", "b", b"2", LONG_S)
    await store.renew("workers", "b", b"3", LONG_S)
    await store.renew("routers", "c", b"4", LONG_S)

    assert await store.members("workers") == {"a": b"1", "b": b"3"}
    assert await store.members("routers") == {"c": b"4"}
    await store.withdraw("workers", "a")
    await store.withdraw("workers", "nobody")
    assert await store.members("workers") == {"b": b"3"}


async def test_leases_expire(store: Backend):
    """A lease that is not renewed ends; its neighbours stay, whoever's is the shortest."""
    await store.renew("workers", "long", b"1", LONG_S)
    await store.renew("workers", "short", b"2", SOON_S)

    async def short() -> bool:
        return "short" in await store.members("workers")

    await until_none(short)
    assert await store.members("workers") == {"long": b"1"}
    await store.renew("workers", "new", b"3", LONG_S)
    assert await store.members("workers") == {"long": b"1", "new": b"3"}


async def test_windows(store: Backend):
    """A window gives what it has, all of them or none; what is given back can be taken again."""
    requests, tokens = Window("requests", 1, 2, LONG_S), Window("tokens", 60, 100, LONG_S)

    taken = await store.take("key", [requests, tokens], None)
    assert taken.allowed
    assert taken.left == (1, 40)
    refused = await store.take("key", [requests, tokens], None)
    assert not refused.allowed
    assert refused.left == (1, 40)
    longest = LONG_S + LONG_S / WINDOW_PARTS
    assert LONG_S - LIMIT_S < refused.retry_after_s <= longest
    assert all(LONG_S - LIMIT_S < each <= longest for each in refused.full_after_s)
    # The refusal took no request either.
    again = await store.take("key", [requests, tokens._replace(cost=40)], None)
    assert again.allowed
    assert not (await store.take("key", [requests], None)).allowed
    assert (await store.take("another key", [requests], None)).allowed
    await store.give_back("key", taken.at_ms, [tokens._replace(cost=50)], None)
    await store.give_back("key", again.at_ms, [tokens._replace(cost=40)], None)
    assert (await store.take("key", [tokens._replace(cost=90)], None)).allowed
    # Of another time nothing was taken.
    await store.give_back("key", taken.at_ms - 3_600_000, [tokens._replace(cost=90)], None)
    assert not (await store.take("key", [tokens], None)).allowed


async def test_windows_move_on(store: Backend):
    """What was taken counts for the window's length, and no longer."""
    window = Window("requests", 2, 2, 0.05)
    assert (await store.take("key", [window], None)).allowed

    async def empty() -> bool:
        return not (await store.take("key", [window], None)).allowed

    await until_none(empty)


async def test_places_are_shared(store: Backend):
    """Several holders have no more than the limit; what one says later counts, in whatever order it arrives."""
    one, other = Places("one", 1, 3, 1, LONG_S), Places("other", 1, 3, 1, LONG_S)
    assert (await store.take("key", [], one)).allowed
    assert (await store.take("key", [], one._replace(held=2, number=2))).allowed
    assert (await store.take("key", [], other)).allowed
    refused = await store.take("key", [], other._replace(held=2, number=2))
    assert (refused.allowed, refused.busy) == (False, True)
    # Where there is no place, nothing else is taken.
    window = Window("requests", 1, 1, LONG_S)
    assert not (await store.take("key", [window], other._replace(held=2, number=3))).allowed
    assert (await store.take("key", [window], None)).allowed
    # The newer word came first.
    await store.give_back("key", 0, [], one._replace(held=0, number=9))
    await store.give_back("key", 0, [], one._replace(held=2, number=8))
    assert (await store.take("key", [], other._replace(held=3, number=4))).allowed
    assert not (await store.take("key", [], one._replace(held=1, number=10))).allowed


async def test_places_of_a_holder_that_is_gone_come_free(store: Backend):
    """After its time; whoever says so again keeps them."""
    assert (await store.take("key", [], Places("gone", 2, 2, 1, 0.05))).allowed

    async def busy() -> bool:
        return not (await store.take("key", [], Places("one", 1, 2, 1, LONG_S))).allowed

    await until_none(busy)


async def test_many_at_a_time(store: Backend):
    """More calls than connections: all are answered, each with its own."""

    async def round_trip(index: int) -> bytes | None:
        await store.put(f"k{index}", b"%d" % index, LONG_S)
        return await store.get(f"k{index}", 100)

    answers = await asyncio.gather(*(round_trip(index) for index in range(100)))

    assert answers == [b"%d" % index for index in range(100)]


async def test_a_window_for_many_is_exact(store: Backend):
    """Of many who ask at once, as many get something as there is."""
    window = Window("requests", 1, 10, LONG_S)

    taken = await asyncio.gather(*(store.take("key", [window], None) for _ in range(50)))

    assert sum(each.allowed for each in taken) == 10
