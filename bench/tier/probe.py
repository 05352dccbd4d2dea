"""A light load client in a process of its own, for latencies: a delay of its own would be reported as the tier's.

So it sends few requests, and where the system allows it no other process takes its core while it has something to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import multiprocessing
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from qwenserve.bench.clients.endpoint import Endpoint
from qwenserve.bench.clients.worker import WorkerEndpoint
from qwenserve.bench.datasets.lengths import Lengths
from qwenserve.bench.datasets.made import Form, Shape, random_jobs
from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.load import Load, Run
from qwenserve.bench.meter import Usage
from qwenserve.bench.record import Record
from qwenserve.bench.samples import ChatMessage, Sample
from qwenserve.bench.schedule import Arrivals
from qwenserve.bench.tier.context import ANSWER_TOKENS, PROMPT_TOKENS, chat_endpoint
from qwenserve.bench.tier.processes import get_ahead, pin

# From the call to the beginning of the load: the process has opened its connections by then.
_LEAD_S = 1.5
_WARM_TOKENS = 8


class Part(NamedTuple):
    """What the probe sends: `chats` streamed chats at `rate` a second to `url`, or as ids to `workers` in turn.

    Before that it sends `warm` at once, so that connections are there: setting them up is no part of a latency.
    """

    url: str
    workers: Sequence[str]
    vocabulary: Vocabulary
    seed: int
    # Of the times between chats, by themselves: two loads with the same one arrive alike.
    arrivals_seed: int
    chats: int
    rate: float
    warm: int


class Seen(NamedTuple):
    """What the probe saw. Times in seconds."""

    first_tokens: array[float]
    gaps: array[float]
    errors: Sequence[str]
    usage: Usage


class InTurn:
    """Several endpoints of one kind as one: each request goes to the next."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._next = itertools.cycle(endpoints)
        self.description = endpoints[0].description

    def prepare(self, sample: Sample, history: Sequence[ChatMessage] = ()) -> Any:
        """As the first one does."""
        return self._endpoints[0].prepare(sample, history)

    async def send(self, prepared: Any, record: Record, *, keep_text: bool = False) -> None:
        """Sends to the next."""
        await next(self._next).send(prepared, record, keep_text=keep_text)

    async def close(self) -> None:
        """Closes all."""
        for endpoint in self._endpoints:
            await endpoint.close()


class Probe:
    """The process, ready to send. `ahead` is whether it runs before others."""

    def __init__(self, pool: ProcessPoolExecutor, ahead: bool) -> None:
        self._pool = pool
        self.ahead = ahead

    async def __call__(self, part: Part, on_start: Callable[[], None]) -> Seen:
        """Sends all. `on_start` is called as the load begins, after all warming up."""
        start = time.time() + _LEAD_S
        sending = asyncio.get_running_loop().run_in_executor(self._pool, _drive, part, start)
        await asyncio.sleep(start - time.time())
        on_start()
        return await sending


@contextlib.asynccontextmanager
async def probe(cores: frozenset[int]) -> AsyncIterator[Probe]:
    """A probe on some cores, while the block lasts."""
    # Not forked: a child must not have this one's event loop and gRPC threads.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        # It has imported what it needs before any load.
        ahead = await asyncio.get_running_loop().run_in_executor(pool, _settle, cores)
        yield Probe(pool, ahead)


def _settle(cores: frozenset[int]) -> bool:
    pin(0, cores)
    return get_ahead()


def _drive(part: Part, start: float) -> Seen:
    return _loop().run_until_complete(_send(part, start))


@functools.lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    """One loop for all parts: gRPC's poller stays with the first that it meets."""
    try:
        import uvloop
    except ImportError:  # not on this platform
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def _send(part: Part, start: float) -> Seen:
    form: Form = "ids" if part.workers else "chat"
    shape = Shape(Lengths("fixed", PROMPT_TOKENS), Lengths("fixed", ANSWER_TOKENS), form, part.seed)
    short = shape._replace(output=Lengths("fixed", _WARM_TOKENS), seed=~part.seed & 0xFFFFFFFF)
    jobs = random_jobs(part.chats, shape, part.vocabulary)
    endpoint: Endpoint = (
        InTurn([WorkerEndpoint(address, timeout_s=120.0) for address in part.workers])
        if part.workers
        else chat_endpoint(part.url)
    )
    try:
        await Run(endpoint, Load(concurrency=part.warm))(random_jobs(part.warm, short, part.vocabulary))
        await asyncio.sleep(max(0.0, start - time.time()))
        outcome = await Run(endpoint, Load(Arrivals(part.rate), seed=part.arrivals_seed))(jobs)
    finally:
        await endpoint.close()
    good = [record for record in outcome.records if not record.error]
    return Seen(
        array("d", (first for record in good if (first := record.ttft) is not None)),
        array("d", itertools.chain.from_iterable(record.gaps() for record in good)),
        [record.error for record in outcome.records if record.error],
        outcome.usage,
    )
