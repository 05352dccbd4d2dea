"""What it costs to tell routers what the workers have cached: over the sessions, and through Redis.

Of a few routers and workers all is real: gRPC, or a Redis server, on loopback; both ends are in this process, so that
its CPU is the cost of both. For large fleets one worker with all its routers and one router with all its workers do a
second's work, without gRPC; what a message costs in gRPC is taken from the small fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from qwenserve.bench.reuse.churn import ChurningCache, churning_worker
from qwenserve.router.clients.worker_session import WorkerSession
from qwenserve.router.routing.prefix_index import PrefixIndex
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.worker.cache_ledger import CacheLedger
from qwenserve.worker.cache_teller import interval_s
from qwenserve.worker.v1 import worker_pb2

_Note: TypeAlias = Callable[[str, worker_pb2.CacheNews], None]

_POLL_S = 0.005
_PATIENCE_S = 30.0
_PUBLISH_S = 0.1
_STREAM = "bench:news:{}"
_KEPT_ENTRIES = 1000


class Fleet(NamedTuple):
    """Sizes. A worker's cache holds `cached_blocks`; with each request `blocks` come, and as many go."""

    routers: int
    workers: int
    requests_per_s: float
    blocks: int
    cached_blocks: int

    @property
    def blocks_per_s(self) -> float:
        """Blocks that come into one worker's cache a second, and go."""
        return self.requests_per_s * self.blocks


class Cost(NamedTuple):
    """What news cost. CPU of all processes together, for each request of the fleet; bytes that a router receives, for
    each of them too; staleness from a block's storing to a router's knowing. `server_us` is the store's part of the
    CPU. `caught_up_s` is how long a router that has just started takes to know everything.
    """

    cpu_us: float
    server_us: float
    bytes: float
    staleness_ms: float
    staleness_most_ms: float
    caught_up_s: float
    message_us: float


class _Staleness:
    """Collects how old blocks are when a router hears of them."""

    def __init__(self, caches: Sequence[ChurningCache]) -> None:
        self._caches = caches
        self._ages: list[float] = []
        self.messages = 0
        self.bytes = 0
        self.counting = False

    def heard(self, number: int, stored: Sequence[int], size: int) -> None:
        """A router heard of blocks of one worker."""
        if not self.counting:
            return
        self.messages += 1
        self.bytes += size
        stored_at, now = self._caches[number].stored_at, time.monotonic()
        if stored and (since := stored_at.get(stored[0])) is not None:
            self._ages.append(now - since)

    @property
    def mean_ms(self) -> float:
        """The mean age of the oldest block of each message."""
        return sum(self._ages) / max(1, len(self._ages)) * 1000

    @property
    def most_ms(self) -> float:
        """The 99th percentile."""
        ages = sorted(self._ages)
        return ages[int(len(ages) * 0.99)] * 1000 if ages else 0.0


async def over_sessions(fleet: Fleet, seconds: float, warm_up_s: float = 1.0) -> Cost:
    """Measures the sessions; what they take without news is taken off."""
    caches = [ChurningCache(n, fleet.blocks_per_s, fleet.cached_blocks) for n in range(fleet.workers)]
    async with contextlib.AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(churning_worker(c, f"w{n}")) for n, c in enumerate(caches)]
        numbers = {address: n for n, address in enumerate(addresses)}
        heard = _Staleness(caches)

        def note(address: str, news: worker_pb2.CacheNews) -> None:
            heard.heard(numbers[address], news.stored, news.ByteSize())

        without = with_news = 0.0
        # In turn, twice: what else the machine does meanwhile is spread over both.
        for _ in range(2):
            async with _routers(fleet, addresses, None):
                without += await _cpu_of(seconds / 2)
            async with _routers(fleet, addresses, note):
                await asyncio.sleep(warm_up_s)
                heard.counting = True
                with_news += await _cpu_of(seconds / 2)
                heard.counting = False
        caught_up_s = await _late_router(addresses, fleet)
    requests = fleet.workers * fleet.requests_per_s * seconds
    cpu_s = with_news - without
    return Cost(
        cpu_s / requests * 1e6,
        0.0,
        heard.bytes / fleet.routers / requests,
        heard.mean_ms,
        heard.most_ms,
        caught_up_s,
        cpu_s / max(1, heard.messages) * 1e6,
    )


@contextlib.asynccontextmanager
async def _routers(fleet: Fleet, addresses: Sequence[str], note: _Note | None) -> AsyncIterator[None]:
    """Sessions of all routers to all workers, with an index for each router that is told."""
    owner = TaskOwner()
    sessions = []
    for _ in range(fleet.routers):
        index = PrefixIndex(10**7)
        for address in addresses:
            told = None if note is None else partial(_tell, index, note)
            session = WorkerSession(address, GrpcConfig(), _nothing, on_cache_news=told)
            session.follow_cache()
            owner.start(session.run(), name=f"session {address}")
            sessions.append(session)
    try:
        await _until(lambda: all(session.ready for session in sessions))
        yield
    finally:
        await owner.close()


def _tell(index: PrefixIndex, note: _Note, address: str, news: worker_pb2.CacheNews) -> None:
    if news.number == 0:
        index.start_over(address)
    index.tell(address, list(news.removed), list(news.stored))
    note(address, news)


def _nothing() -> None:
    """Nobody is told of changes."""


async def _late_router(addresses: Sequence[str], fleet: Fleet) -> float:
    known = 0

    def note(address: str, news: worker_pb2.CacheNews) -> None:
        nonlocal known
        known += len(news.stored) - len(news.removed)

    began = time.monotonic()
    async with _routers(fleet._replace(routers=1), addresses, note):
        await _until(lambda: known >= fleet.workers * fleet.cached_blocks * 0.99)
        return time.monotonic() - began


async def _until(reached: Callable[[], bool]) -> None:
    """Waits. Raises OSError where it takes too long."""
    for _ in range(int(_PATIENCE_S / _POLL_S)):
        if reached():
            return
        await asyncio.sleep(_POLL_S)
    raise OSError(f"the workers did not tell their caches within {_PATIENCE_S:g} s")


async def _cpu_of(seconds: float) -> float:
    began = time.process_time()
    await asyncio.sleep(seconds)
    return time.process_time() - began


async def through_redis(fleet: Fleet, seconds: float, url: str) -> Cost:
    """Measures a Redis stream for each worker, which all routers read."""
    import redis.asyncio

    caches = [ChurningCache(n, fleet.blocks_per_s, fleet.cached_blocks) for n in range(fleet.workers)]
    heard = _Staleness(caches)
    clients = [redis.asyncio.Redis.from_url(url) for _ in range(fleet.routers + 1)]
    server = clients[-1]
    names = [_STREAM.format(n) for n in range(fleet.workers)]
    numbers = {name.encode(): n for n, name in enumerate(names)}
    await server.delete(*names)

    # A cancel that comes in the middle of a call is lost in the client: loops look at this instead.
    over = asyncio.Event()

    async def publish() -> None:
        before = time.monotonic()
        while not over.is_set():
            await asyncio.sleep(_PUBLISH_S)
            now = time.monotonic()
            for cache, name in zip(caches, names, strict=True):
                cache.step(now - before)
                events = cache.fetch()
                stored = array("Q", [value for event in events for value in event.stored]).tobytes()
                removed = array("Q", [value for event in events for value in event.removed]).tobytes()
                await server.xadd(name, {b"+": stored, b"-": removed}, maxlen=_KEPT_ENTRIES, approximate=True)
            before = now

    async def read(client: Any) -> None:
        index = PrefixIndex(10**7)
        places: dict[Any, Any] = dict.fromkeys(names, "0")
        while not over.is_set():
            # Asked at intervals, one answer has what many workers told.
            await asyncio.sleep(_PUBLISH_S)
            for name, entries in await client.xread(places) or ():
                for place, fields in entries:
                    places[name.decode()] = place
                    stored, removed = array("Q", fields[b"+"]), array("Q", fields[b"-"])
                    index.tell(name.decode(), removed, stored)
                    heard.heard(numbers[name], stored, len(fields[b"+"]) + len(fields[b"-"]))

    async def server_cpu_s() -> float:
        info = await server.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    tasks = [asyncio.ensure_future(publish()), *(asyncio.ensure_future(read(client)) for client in clients[:-1])]
    try:
        await asyncio.sleep(1.0)
        heard.counting = True
        began = await server_cpu_s()
        cpu_s = await _cpu_of(seconds)
        server_s = await server_cpu_s() - began
    finally:
        over.set()
        failures = await asyncio.gather(*tasks, return_exceptions=True)
        await server.delete(*names)
        for client in clients:
            await client.aclose()
    for failure in failures:
        if isinstance(failure, Exception):
            raise OSError(f"{url}: {failure}") from failure
    requests = fleet.workers * fleet.requests_per_s * seconds
    return Cost(
        (cpu_s + server_s) / requests * 1e6,
        server_s / requests * 1e6,
        heard.bytes / fleet.routers / requests,
        heard.mean_ms,
        heard.most_ms,
        0.0,
        (cpu_s + server_s) / max(1, heard.messages) * 1e6,
    )


def simulated(fleet: Fleet, message_us: float, seconds: int = 3) -> Cost:
    """Works out the sessions of a large fleet; `message_us` is what gRPC takes for one message at both ends."""
    interval = interval_s(fleet.routers)
    rounds = max(1, round(seconds / interval))
    worker = _one_worker(fleet, interval, rounds)
    router = _one_router(fleet, interval, min(rounds, 3))
    # Where nothing else is sent, a message of news takes the place of the stamp that is asked for once a second.
    messages = fleet.routers * fleet.workers * max(0.0, rounds - rounds * interval)
    router_cpu_s = router.cpu_s * rounds / min(rounds, 3)
    cpu_s = worker.cpu_s * fleet.workers + router_cpu_s * fleet.routers + messages * message_us / 1e6
    requests = fleet.workers * fleet.requests_per_s * interval * rounds
    # A block waits for the worker's next look at its engine, and for the session's turn.
    staleness = interval / 2
    return Cost(
        cpu_s / requests * 1e6,
        0.0,
        router.bytes * rounds / min(rounds, 3) / requests,
        staleness * 1000,
        interval * 1000,
        router.caught_up_s,
        0.0,
    )


class _Work(NamedTuple):
    cpu_s: float
    bytes: int
    caught_up_s: float


def _one_worker(fleet: Fleet, interval: float, rounds: int) -> _Work:
    """All that one worker does for its routers, without writing."""
    cache = ChurningCache(0, fleet.blocks_per_s, fleet.cached_blocks)
    ledger = CacheLedger()
    ledger.take(cache.fetch())
    readers = [ledger.reader() for _ in range(fleet.routers)]
    for reader in readers:
        while reader.next() is not None:
            pass
    spent, size = 0.0, 0
    for _ in range(rounds):
        cache.step(interval)
        began = time.process_time()
        ledger.take(cache.fetch())
        for reader in readers:
            while (news := reader.next()) is not None:
                wire = worker_pb2.CacheNews(number=news.number, removed=news.removed, stored=news.stored)
                size += len(wire.SerializeToString())
        spent += time.process_time() - began
    return _Work(spent, size, 0.0)


def _one_router(fleet: Fleet, interval: float, rounds: int) -> _Work:
    """All that one router does with what its workers tell, without reading."""
    index = PrefixIndex(fleet.workers * fleet.cached_blocks * 2)
    caches = [ChurningCache(n, fleet.blocks_per_s, fleet.cached_blocks) for n in range(fleet.workers)]
    beginnings = [worker_pb2.CacheNews(stored=cache.fetch()[0].stored).SerializeToString() for cache in caches]
    began = time.process_time()
    for number, wire in enumerate(beginnings):
        index.tell(str(number), (), list(worker_pb2.CacheNews.FromString(wire).stored))
    caught_up_s = time.process_time() - began
    spent, size = 0.0, 0
    for _ in range(rounds):
        for cache in caches:
            cache.step(interval)
        wires = [
            worker_pb2.CacheNews(
                number=1,
                removed=[value for event in events for value in event.removed],
                stored=[value for event in events for value in event.stored],
            ).SerializeToString()
            for events in (cache.fetch() for cache in caches)
        ]
        size += sum(map(len, wires))
        began = time.process_time()
        for number, wire in enumerate(wires):
            news = worker_pb2.CacheNews.FromString(wire)
            index.tell(str(number), list(news.removed), list(news.stored))
        spent += time.process_time() - began
    return _Work(spent, size, caught_up_s)
