"""Which worker a request goes to, and what all of them can do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from qwenserve.router.clients.directory import Expectation, WorkerDirectory
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import Unavailable
from tests.router.clients.odd_worker import OddWorker, serving
from tests.system.stack import until

PROMPT = list(range(200))


@contextlib.asynccontextmanager
async def directory(*addresses: str) -> AsyncIterator[WorkerDirectory]:
    known = WorkerDirectory(addresses, GrpcConfig(), "prefix", Expectation("m", 100))
    known.start()
    try:
        yield known
    finally:
        await known.close()


async def test_a_prompt_goes_where_its_beginning_went_unless_that_worker_was_tried() -> None:
    async with serving(OddWorker()) as one, serving(OddWorker()) as other, directory(one, other) as workers:
        await until(lambda: len(workers.ready_sessions) == 2)
        first = workers.choose(PROMPT)

        assert [workers.choose([*PROMPT, n]).address for n in range(3)] == [first.address] * 3
        assert workers.choose(PROMPT, excluding=frozenset({first.address})) is not first
        assert workers.candidates(PROMPT)[0].expected_cached_tokens > 0
        with pytest.raises(Unavailable):
            workers.choose(PROMPT, excluding=frozenset({one, other}))


async def test_without_a_worker_nothing_is_chosen_and_the_error_says_when_to_come_back() -> None:
    async with directory() as workers:
        with pytest.raises(Unavailable) as caught:
            workers.choose(PROMPT)

    assert caught.value.retry_after_s
    assert workers.abilities.max_model_len == 0


async def test_an_address_given_twice_is_one_worker() -> None:
    async with serving(worker := OddWorker()) as address, directory(address, address) as workers:
        await until(lambda: len(workers.ready_sessions) == 1)

        assert worker.sessions == 1


async def test_abilities_are_those_that_all_ready_workers_share() -> None:
    small, poor = OddWorker(), OddWorker()
    small.info.max_model_len, small.info.max_top_logprobs = 32, 20
    poor.info.unsupported_fields.append("min_p")
    poor.info.max_top_logprobs = 5
    poor.info.engine, small.info.engine = "p", "s"
    async with contextlib.AsyncExitStack() as stack:
        left = contextlib.AsyncExitStack()
        one = await left.enter_async_context(serving(small))
        other = await stack.enter_async_context(serving(poor))
        workers = await stack.enter_async_context(directory(one, other))
        await until(lambda: len(workers.ready_sessions) == 2)
        both = workers.abilities

        await left.aclose()
        await until(lambda: len(workers.ready_sessions) == 1)

        assert (both.max_model_len, both.max_top_logprobs, both.unsupported) == (32, 5, frozenset({"min_p"}))
        assert both.engines == "p, s"
        assert workers.abilities.max_model_len == 64


async def test_whoever_waits_hears_of_a_change() -> None:
    async with serving(OddWorker()) as address, directory(address) as workers:
        await asyncio.wait_for(workers.changed(), 10)
        await until(lambda: len(workers.ready_sessions) == 1)
