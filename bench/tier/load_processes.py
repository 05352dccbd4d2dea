"""The load client in several processes, for latencies: one process that reads tens of thousands of events a second is
late itself, and what it is late by would be told as the tier's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from bench.clients.endpoint import Endpoint
from bench.clients.worker import WorkerEndpoint
from bench.datasets.lengths import Lengths
from bench.datasets.made import Form, Shape, random_jobs
from bench.datasets.vocabulary import Vocabulary
from bench.load import Load, Run
from bench.meter import Usage
from bench.record import Record
from bench.samples import ChatMessage, Sample
from bench.schedule import Arrivals
from bench.tier.context import ANSWER_TOKENS, PROMPT_TOKENS, chat_endpoint
from bench.tier.processes import pin
from runtime import lifecycle

_WARM_S = 0.5
# From the call to the beginning of the load: every process has opened its connections by then.
_LEAD_S = 2.0
_WARM_TOKENS = 8


class Part(NamedTuple):
    """What one process sends: `chats` streamed chats at `rate` a second to `url`, or as ids to `workers` in turn.

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
    # Where the process runs, and when the load begins (`time.time()`); told by LoadProcesses.
    core: frozenset[int] = frozenset()
    start: float = 0.0


class Seen(NamedTuple):
    """What one process saw. Times in seconds."""

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


class LoadProcesses:
    """Processes that are ready to send. Parts go to them one each."""

    def __init__(self, pool: ProcessPoolExecutor, cores: Sequence[frozenset[int]]) -> None:
        self._pool = pool
        self.cores = cores

    async def __call__(self, parts: Sequence[Part], on_start: Callable[[], None]) -> list[Seen]:
        """Sends all parts at the same time; returns what each process saw, in order. `on_start` is called as the load
        begins, after all warming up."""
        loop = asyncio.get_running_loop()
        start = time.time() + _LEAD_S
        given = [part._replace(core=core, start=start) for part, core in zip(parts, self.cores, strict=True)]
        sending = asyncio.gather(*(loop.run_in_executor(self._pool, _drive, part) for part in given))
        await asyncio.sleep(start - time.time())
        on_start()
        return list(await sending)


@contextlib.asynccontextmanager
async def load_processes(cores: Sequence[frozenset[int]]) -> AsyncIterator[LoadProcesses]:
    """One process for each set of cores, while the block lasts."""
    # Not forked: a child must not have this one's event loop and gRPC threads.
    with ProcessPoolExecutor(len(cores), multiprocessing.get_context("spawn")) as pool:
        loop = asyncio.get_running_loop()
        # Each takes one of these, so all are there and have imported what they need before any load.
        await asyncio.gather(*(loop.run_in_executor(pool, _loaded) for _ in cores))
        yield LoadProcesses(pool, cores)


def _loaded() -> None:
    """Has imported this module by now; keeps its process from taking another's turn."""
    time.sleep(_WARM_S)


def _drive(part: Part) -> Seen:
    pin(0, part.core)
    seen: list[Seen] = []

    async def body() -> int:
        seen.append(await _send(part))
        return 0

    lifecycle.run(body())
    return seen[0]


async def _send(part: Part) -> Seen:
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
        await asyncio.sleep(max(0.0, part.start - time.time()))
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
