"""What routers learn of the workers' prefix caches over their sessions, and what they make of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from qwenserve.router.clients.directory import Expectation, WorkerDirectory
from qwenserve.router.clients.reuse_counts import ReuseCounts
from qwenserve.router.clients.worker_source import StaticWorkers
from qwenserve.router.routing.policy import PolicyName
from qwenserve.runtime.block_hash import block_hashes
from qwenserve.runtime.config import GrpcConfig
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.engines.simulated.engine import SimulatedConfig
from qwenserve.worker.v1 import worker_pb2
from tests.router.clients.odd_worker import OddWorker, requests_of, serving
from tests.router.clients.test_worker_session import Stream, submit
from tests.system.stack import until
from tests.worker.running import running

PROMPT = list(range(200))
HASHES = block_hashes(PROMPT, 32)


@contextlib.asynccontextmanager
async def directory(*addresses: str, policy: PolicyName = "prefix") -> AsyncIterator[WorkerDirectory]:
    known = WorkerDirectory(StaticWorkers(addresses), GrpcConfig(), policy, Expectation("m", 100))
    known.start()
    try:
        await until(lambda: len(known.ready_sessions) == len(addresses))
        yield known
    finally:
        await known.close()


class Teller:
    """A worker that tells what a test wants it to tell, each time it is asked."""

    def __init__(self, *answers: Sequence[worker_pb2.CacheNews]) -> None:
        self.asked = 0
        self.received: list[worker_pb2.SessionRequest] = []
        self._answers = answers

    async def __call__(self, worker: OddWorker, context: Any) -> None:
        async for message in requests_of(context):
            self.received.append(message)
            if message.ping:
                await context.write(worker_pb2.SessionResponse())
            if message.cache_news:
                self.asked += 1
                for news in self._answers[min(self.asked, len(self._answers)) - 1]:
                    await context.write(worker_pb2.SessionResponse(cache=news))


def news(number: int, stored: Sequence[int] = (), removed: Sequence[int] = ()) -> worker_pb2.CacheNews:
    return worker_pb2.CacheNews(number=number, stored=stored, removed=removed)


def expected(workers: WorkerDirectory, address: str) -> int:
    return next(
        e.candidate.expected_cached_tokens for e in workers.candidates(PROMPT) if e.candidate.address == address
    )


async def test_what_workers_tell_decides() -> None:
    teller = Teller([news(0, HASHES[:4]), news(1, HASHES[4:], HASHES[:1]), news(2, HASHES[:1], HASHES[5:])])
    async with serving(OddWorker()) as one, serving(OddWorker(teller)) as other, directory(one, other) as workers:
        await until(lambda: expected(workers, other) == 5 * 32)

        assert workers.choose(PROMPT).address == other
        assert expected(workers, one) == 0


async def test_after_missing_news_a_router_asks_again_and_knows() -> None:
    teller = Teller([news(0, HASHES[:2]), news(2, HASHES[2:4]), news(3, HASHES[4:])], [news(0, HASHES[:3])])
    async with serving(OddWorker()) as one, serving(OddWorker(teller)) as other, directory(one, other) as workers:
        await until(lambda: expected(workers, other) == 3 * 32)

        assert teller.asked == 2


async def test_nobody_asks_who_has_no_choice_or_no_use_for_it() -> None:
    teller = Teller([news(0, HASHES)])
    async with serving(OddWorker(teller)) as one, serving(OddWorker()) as other:
        async with directory(one) as workers:
            assert workers.choose(PROMPT).address == one
        async with directory(one, other, policy="round_robin") as workers:
            workers.choose(PROMPT)

        assert teller.asked == 0


async def test_a_worker_that_left_and_came_back_is_known_by_what_it_tells_then() -> None:
    teller = Teller([news(0, HASHES)], [news(0, HASHES[:2])])
    async with serving(OddWorker()) as one, serving(OddWorker(teller)) as other, directory(one, other) as workers:
        await until(lambda: expected(workers, other) == 6 * 32)
        workers.leave(other)
        workers.join(other)

        await until(lambda: len(workers.ready_sessions) == 2 and expected(workers, other) == 2 * 32)


async def test_a_router_that_comes_late_knows_what_others_had_computed() -> None:
    engine = SimulatedConfig(step_s=0.001)
    async with running(engine) as one, running(engine) as other:
        addresses = [f"127.0.0.1:{worker.port}" for worker in (one, other)]
        async with directory(*addresses) as workers:
            session = workers.choose(PROMPT)
            submit(session, stream := Stream(), PROMPT, max_tokens=1)
            await until(lambda: stream.finish is not None)
        async with directory(*addresses) as late:
            await until(lambda: expected(late, session.address) == 12 * 16)

            assert late.choose(PROMPT).address == session.address


async def test_what_was_expected_is_compared_with_what_was_found() -> None:
    engine = SimulatedConfig(step_s=0.001)
    async with (
        running(engine) as one,
        running(engine) as other,
        directory(f"127.0.0.1:{one.port}", f"127.0.0.1:{other.port}") as workers,
    ):
        for _ in range(3):
            submit(workers.choose(PROMPT), stream := Stream(), PROMPT, max_tokens=1)
            await until(lambda stream=stream: stream.finish is not None)
        counted = values(workers.reuse)

    assert counted == {
        "prompt": 600,
        "expected": 2 * 192,
        "found": 2 * 192,
        "missing": 0,
        "unexpected": 0,
        "as_expected": 3,
        "less": 0,
        "more": 0,
    }


def test_less_and_more_than_expected_are_told_apart() -> None:
    counts = ReuseCounts()
    counts.note(64, 100, worker_pb2.Finish(cached_tokens=32))
    counts.note(64, 100, worker_pb2.Finish(cached_tokens=99))
    # Engines without blocks find a part of one, too.
    counts.note(64, 100, worker_pb2.Finish(cached_tokens=95))
    counts.note(64, 100, worker_pb2.Finish(reason=sampling_pb2.FINISH_REASON_ABORTED))
    counts.note(64, 100, worker_pb2.Finish(error_reason="QUEUE_FULL"))

    found = values(counts)
    assert (found["less"], found["more"], found["as_expected"]) == (1, 1, 1)
    assert (found["prompt"], found["missing"], found["unexpected"]) == (300, 32, 35)


def values(counts: ReuseCounts) -> dict[str, float]:
    """What a scrape finds."""
    registry = CollectorRegistry()
    registry.register(counts.tokens)
    registry.register(counts.requests)
    return {
        next(iter(sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


async def test_a_worker_is_told_what_is_expected_and_only_the_rest_counts_as_ahead() -> None:
    teller = Teller([news(0, HASHES[:3])])
    worker = OddWorker(teller)
    async with serving(OddWorker()) as one, serving(worker) as other, directory(one, other) as workers:
        await until(lambda: expected(workers, other) == 3 * 32)
        session = workers.choose(PROMPT)
        submit(session, Stream(), PROMPT)

        assert session.unread_tokens == 200 - 96
        await until(lambda: any(message.submits for message in teller.received))
        (sent,) = next(message.submits for message in teller.received if message.submits)
        assert sent.expected_cached_tokens == 96
