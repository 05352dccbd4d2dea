"""A store in trouble: every call returns in time, says "unknown", and things heal by themselves."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import pytest

from qwenserve.store.interface import News, Window
from qwenserve.store.memory import MemoryBackend
from qwenserve.store.shared import SharedStore
from tests.store.servers import Proxy, RedisServer, backend_of, running_redis, why_none

pytestmark = pytest.mark.skipif(bool(why_none()), reason=why_none() or "-")

LONG_S = 60.0
LIMIT_S = 30.0
# Far above what a call should take on any machine, far below what a hanging store would cost.
TIMEOUT_S = 1.0


@pytest.fixture
async def server():
    async with running_redis() as started:
        yield started


@pytest.fixture
async def store(server: RedisServer):
    opened = guarded(server.url)
    yield opened
    await opened.close()


def guarded(url: str, timeout_s: float = TIMEOUT_S) -> SharedStore:
    return SharedStore(backend_of(url), timeout_s=timeout_s, where="test")


def count(store: SharedStore, outcome: str) -> float:
    """Calls with this outcome so far."""
    [family] = store.calls.collect()
    return sum(
        each.value for each in family.samples if each.name.endswith("_total") and each.labels["outcome"] == outcome
    )


def lines(caplog, event: str) -> int:
    return sum(record.getMessage() == event for record in caplog.records)


async def until(look: Callable[[], Awaitable[object]]) -> None:
    """Waits until `look` finds something."""

    async def wait() -> None:
        while not await look():  # noqa: ASYNC110  # a server elsewhere offers no event
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), LIMIT_S)


async def everything_is_unknown(store: SharedStore) -> None:
    assert await store.get("a", max_bytes=100) is None
    assert await store.put("a", b"1", ttl_s=LONG_S) is False
    assert await store.put_all([("a", b"1")], ttl_s=LONG_S) is False
    assert await store.keys("a", 0) is None
    assert await store.delete("a") is False
    assert await store.renew("workers", "w", b"1", ttl_s=LONG_S) is False
    assert await store.withdraw("workers", "w") is False
    assert await store.members("workers") is None
    assert await store.take("key", [Window("requests", 1, 1000, 60)]) is None
    assert await store.append("log", b"1", keep=1, ttl_s=LONG_S) is False
    assert await store.since("log", "", limit=1, max_bytes=100) is None


async def everything_works(store: SharedStore) -> None:
    assert await store.put("a", b"1", ttl_s=LONG_S)
    assert await store.get("a", max_bytes=100) == b"1"
    assert await store.renew("workers", "w", b"2", ttl_s=LONG_S)
    assert await store.members("workers") == {"w": b"2"}
    assert await store.append("log", b"3", keep=1, ttl_s=LONG_S)
    [entry] = await store.since("log", "", limit=9, max_bytes=100) or []
    assert entry.payload == b"3"
    assert await store.put_all([("several", b"4")], ttl_s=LONG_S, news=News("news", b"5", 100, LONG_S))
    assert (await store.since("news", "", limit=999, max_bytes=100) or [])[-1].payload == b"5"
    page = await store.keys("sev", 0)
    assert page is not None
    assert set(page.keys) == {"several"}
    taken = await store.take("key", [Window("requests", 1, 1000, 60)])
    assert taken is not None
    assert taken.allowed


async def test_killed_and_started_again_empty(store: SharedStore, server: RedisServer, caplog):
    """A store that goes is done without; once it is back it is used again, with nothing in it."""
    await everything_works(store)

    await server.kill()
    await everything_is_unknown(store)
    assert not store.answering
    await server.start()
    await until(lambda: store.put("b", b"2", ttl_s=LONG_S))

    assert await store.get("a", max_bytes=100) is None
    assert await store.members("workers") == {}
    await everything_works(store)
    assert lines(caplog, "store_down") == 1


async def test_a_slow_store_costs_the_limit_a_few_times_only(server: RedisServer, caplog):
    """Once it is known not to answer, nobody waits for it; asking it is the probe's work."""
    proxy = Proxy(server.port)
    await proxy.start()
    store = guarded(proxy.url, timeout_s=0.25)
    try:
        await until(lambda: store.put("a", b"1", ttl_s=LONG_S))
        proxy.delay_s = 3600
        asked = time.monotonic()
        for _ in range(200):
            assert await store.get("a", max_bytes=100) is None
        waited = time.monotonic() - asked

        assert count(store, "timeout") == 3
        assert count(store, "skipped") == 197
        # 200 waits would be 50 s.
        assert waited < 25
        proxy.delay_s = 0
        await until(lambda: store.get("a", max_bytes=100))
        assert lines(caplog, "store_down") == 1
    finally:
        await store.close()
        await proxy.close()


async def test_full_without_eviction(store: SharedStore, server: RedisServer, caplog):
    """What does not fit is refused; what is there can be read, and nothing is thought to be down."""
    await everything_works(store)
    await server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await server.command("CONFIG", "SET", "maxmemory", "1")

    for _ in range(20):
        assert await store.put("b", b"2", ttl_s=LONG_S) is False
        assert await store.put_all([("c", b"3"), ("d", b"4")], ttl_s=LONG_S) is False
    assert await store.renew("workers", "w2", b"1", ttl_s=LONG_S) is False
    assert await store.get("a", max_bytes=100) == b"1"
    assert await store.members("workers") == {"w": b"2"}
    assert store.answering
    assert lines(caplog, "store_trouble") == 2  # one for each kind of call
    await server.command("CONFIG", "SET", "maxmemory", "0")
    await everything_works(store)


async def test_full_with_eviction(store: SharedStore, server: RedisServer):
    """Where the store throws things away, every call works; what is missing is missing."""
    await server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await server.command("CONFIG", "SET", "maxmemory", "4mb")
    for index in range(200):
        # Random bytes do not compress.
        assert await store.put(f"k{index}", index.to_bytes(2, "big") + _noise(50_000), ttl_s=LONG_S)

    found = [await store.get(f"k{index}", max_bytes=60_000) for index in range(200)]

    assert 0 < sum(value is not None for value in found) < 200
    assert all(value is None or int.from_bytes(value[:2], "big") == index for index, value in enumerate(found))
    await everything_works(store)


async def test_read_only(store: SharedStore, server: RedisServer):
    """A replica answers what can be read and refuses the rest; once it may write, it does."""
    await everything_works(store)
    # A replica of nobody keeps what it has.
    await server.command("REPLICAOF", "127.0.0.1", "1")

    assert await store.put("a", b"2", ttl_s=LONG_S) is False
    assert await store.renew("workers", "w", b"3", ttl_s=LONG_S) is False
    assert await store.take("key", [Window("requests", 1, 1000, 60)]) is None
    assert await store.get("a", max_bytes=100) == b"1"
    assert await store.members("workers") == {"w": b"2"}
    assert store.answering
    await server.command("REPLICAOF", "NO", "ONE")
    await everything_works(store)


async def test_a_user_of_ones_own(server: RedisServer):
    """A user that may do no more than is needed, with keys of this prefix alone, will do; another prefix is refused."""
    rights = ("+@read", "+@write", "+@scripting", "+@connection", "+@transaction", "+time")
    assert await server.command("ACL", "SETUSER", "serve", "on", ">pass word@1", "~test:*", *rights) == "+OK"
    url = f"redis://serve:pass%20word%401@127.0.0.1:{server.port}"
    store, elsewhere = guarded(url), SharedStore(backend_of(url, prefix="other"), timeout_s=TIMEOUT_S, where="test")
    try:
        await everything_works(store)
        assert await elsewhere.put("a", b"1", ttl_s=LONG_S) is False
        assert await elsewhere.get("a", max_bytes=100) is None
    finally:
        await store.close()
        await elsewhere.close()


async def test_the_password_changes_at_run_time(server: RedisServer, tmp_path, caplog):
    """With the wrong password nothing is known; with the right one in the file everything is again."""
    file = tmp_path / "password"
    file.write_text("first\n")
    await server.command("CONFIG", "SET", "requirepass", "first")
    store = SharedStore(backend_of(server.url, password_file=str(file)), timeout_s=TIMEOUT_S, where="test")
    try:
        await everything_works(store)
        await server.command("CONFIG", "SET", "requirepass", "second", password="first")
        await server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", password="second")
        await everything_is_unknown(store)
        file.write_text("second\n")
        await until(lambda: store.get("a", max_bytes=100))
        await everything_works(store)
        assert lines(caplog, "store_down") == 1
        assert all("second" not in record.getMessage() + str(record.__dict__) for record in caplog.records)
    finally:
        await store.close()


async def test_flushed(store: SharedStore, server: RedisServer):
    """What is gone is gone; the next write is there."""
    await everything_works(store)
    await server.command("FLUSHALL")

    assert await store.get("a", max_bytes=100) is None
    assert await store.members("workers") == {}
    await everything_works(store)


async def test_lies_change_nothing(store: SharedStore, server: RedisServer, caplog):
    """Bytes that nobody of ours wrote, under the right keys and of any type, are as good as missing."""
    await everything_works(store)
    await server.command("SET", "test:v:a", "hello")
    await server.command("HSET", "test:l:{workers}:values", "w", "http://elsewhere")
    await server.command("HSET", "test:b:key", f"w:requests:{int(time.time())}", "many", "h:me", "no:number")

    assert await store.get("a", max_bytes=100) is None
    assert await store.members("workers") == {}
    taken = await store.take("key", [Window("requests", 1, 1000, 60)])
    assert taken is not None
    for key in ("test:v:a", "test:l:{workers}:values", "test:l:{workers}:until", "test:b:key"):
        await server.command("DEL", key)
        await server.command("LPUSH", key, "a list")
    assert await store.get("a", max_bytes=100) is None
    assert await store.members("workers") is None
    assert await store.renew("workers", "w", b"1", ttl_s=LONG_S) is False
    assert await store.take("key", [Window("requests", 1, 1000, 60)]) is None
    assert await store.put("a", b"1", ttl_s=LONG_S)
    assert await store.get("a", max_bytes=100) == b"1"
    assert sum(each.value for each in next(store.bad_values.collect()).samples if each.name.endswith("_total")) == 2
    assert store.answering


async def test_in_process_nothing_is_limited_or_skipped():
    """What cannot fail is not guarded."""
    store = SharedStore(MemoryBackend(1 << 20), timeout_s=0.001, where="in process")

    await everything_works(store)

    assert not store.shared
    await store.close()


def _noise(size: int) -> bytes:
    return random.Random(7).randbytes(size)


async def test_a_router_that_was_held_up_blames_nobody(server: RedisServer):
    """An answer that came while the event loop did something else is taken, however long that was."""
    store = guarded(server.url, timeout_s=0.05)
    try:
        await until(lambda: store.put("a", b"1", ttl_s=LONG_S))
        for _ in range(4):
            asked = asyncio.ensure_future(store.get("a", max_bytes=100))
            await asyncio.sleep(0)
            time.sleep(0.2)  # noqa: ASYNC251  # what holds the loop up is the point
            assert await asked == b"1"
        assert count(store, "timeout") == 0
    finally:
        await store.close()
