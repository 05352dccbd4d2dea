"""Which worker a request goes to, and what all of them can do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from qwenserve.router.clients.directory import Expectation, WorkerDirectory
from qwenserve.router.clients.worker_source import Membership, StaticWorkers
from qwenserve.router.routing.requirements import Capabilities, Requirements
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import Unavailable
from qwenserve.runtime.model_fingerprint import ModelFingerprint
from qwenserve.type.v1 import guide_pb2
from qwenserve.worker.v1 import worker_pb2
from tests.router.clients.odd_worker import OddWorker, serving
from tests.router.clients.test_worker_session import SLOW, Stream, submit
from tests.system.stack import until
from tests.worker.running import running

PROMPT = list(range(200))


@contextlib.asynccontextmanager
async def directory(*addresses: str, return_wait_s: float = 0.0) -> AsyncIterator[WorkerDirectory]:
    known = WorkerDirectory(
        StaticWorkers(addresses), GrpcConfig(), "prefix", Expectation("m", 100), return_wait_s=return_wait_s
    )
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
        assert workers.candidates(PROMPT)[0].candidate.expected_cached_tokens > 0
        with pytest.raises(Unavailable):
            workers.choose(PROMPT, excluding=frozenset({one, other}))


async def test_without_a_worker_nothing_is_chosen_and_the_error_says_when_to_come_back() -> None:
    async with directory() as workers:
        with pytest.raises(Unavailable) as caught:
            workers.choose(PROMPT)

    assert caught.value.retry_after_s
    assert not workers.capabilities


async def test_an_address_given_twice_is_one_worker() -> None:
    async with serving(worker := OddWorker()) as address, directory(address, address) as workers:
        await until(lambda: len(workers.ready_sessions) == 1)

        assert worker.sessions == 1


async def test_capabilities_are_those_of_the_ready_workers_each_kind_once() -> None:
    small, poor = OddWorker(), OddWorker()
    small.info.max_model_len, small.info.max_top_logprobs, small.info.engine = 32, 20, "s"
    poor.info.unsupported_fields.append("min_p")
    poor.info.guide_kinds.append(guide_pb2.GUIDE_KIND_JSON_OBJECT)
    poor.info.max_top_logprobs, poor.info.engine = 5, "p"
    able = Capabilities("p", 64, 5, frozenset({"min_p"}), frozenset({2}))
    async with contextlib.AsyncExitStack() as stack:
        left = contextlib.AsyncExitStack()
        one = await left.enter_async_context(serving(small))
        others = [await stack.enter_async_context(serving(poor)) for _ in range(2)]
        workers = await stack.enter_async_context(directory(one, *others))
        await until(lambda: len(workers.ready_sessions) == 3)
        all_of_them = workers.capabilities

        await left.aclose()
        await until(lambda: len(workers.ready_sessions) == 2)

        assert set(all_of_them) == {Capabilities("s", 32, 20), able}
        assert list(workers.capabilities) == [able]


async def test_a_request_goes_to_a_worker_that_has_what_it_needs() -> None:
    small, poor = OddWorker(), OddWorker()
    small.info.max_model_len = 32
    poor.info.unsupported_fields.append("min_p")
    async with serving(small) as one, serving(poor) as other, directory(one, other) as workers:
        await until(lambda: len(workers.ready_sessions) == 2)

        for number in range(4):
            prompt = [number] * 8
            assert workers.choose(prompt, needs=Requirements(frozenset({"min_p"}), 32)).address == one
            assert workers.choose(prompt, needs=Requirements(frozenset(), 33)).address == other
        with pytest.raises(Unavailable, match="can apply max_tokens"):
            workers.choose(PROMPT, needs=Requirements(frozenset({"min_p"}), 65))
        with pytest.raises(Unavailable, match="min_p"):
            workers.choose(PROMPT, needs=Requirements(frozenset({"min_p"}), 33), excluding=frozenset({one}))


async def test_candidates_are_explained_with_what_they_lack() -> None:
    small, wrong = OddWorker(), OddWorker()
    small.info.max_model_len, small.info.name = 32, "small"
    wrong.info.model = "another"
    async with contextlib.AsyncExitStack() as stack:
        one, other, third = [await stack.enter_async_context(serving(w)) for w in (small, OddWorker(), wrong)]
        workers = await stack.enter_async_context(directory(one, other, third))
        await until(lambda: len(workers.ready_sessions) == 2 and "another" in workers.sessions[2].why_not_ready)

        explained = workers.candidates(PROMPT[:20], needs=Requirements(tokens=33))

    reasons = {candidate.address: (candidate.ready, reason) for candidate, reason in explained}
    assert explained[0].candidate.address == other
    assert reasons[one] == (False, "cannot apply max_tokens")
    assert reasons[other][1].startswith("0 of 20 prompt tokens probably cached; 0 prompt tokens ahead")
    assert "another" in reasons[third][1]


async def test_a_worker_that_joins_is_used_and_one_that_leaves_is_not() -> None:
    async with serving(OddWorker()) as one, serving(OddWorker()) as other, directory(one) as workers:
        await until(lambda: len(workers.ready_sessions) == 1)
        workers.join(other)
        workers.join(other)
        await until(lambda: len(workers.ready_sessions) == 2)

        workers.leave(one)
        workers.leave("127.0.0.1:1")

        assert {workers.choose([n] * 8).address for n in range(4)} == {other}
        assert [session.address for session in workers.sessions] == [other]
        workers.leave(other)
        with pytest.raises(Unavailable):
            workers.choose(PROMPT)


async def test_a_worker_that_leaves_answers_what_it_was_given() -> None:
    async with running() as worker, directory(f"127.0.0.1:{worker.port}") as workers:
        await until(lambda: len(workers.ready_sessions) == 1)
        session, stream = workers.choose(PROMPT), Stream()
        submit(session, stream, max_tokens=50)
        workers.leave(session.address)

        await until(lambda: stream.ended)

        assert len(stream.ids) == 50
        assert not workers.sessions


async def test_a_worker_that_comes_back_while_it_leaves_keeps_its_session() -> None:
    async with running(SLOW) as worker, directory(f"127.0.0.1:{worker.port}") as workers:
        await until(lambda: len(workers.ready_sessions) == 1)
        session = workers.choose(PROMPT)
        submit(session, Stream(), max_tokens=1000)
        workers.leave(session.address)
        workers.join(session.address)

        assert workers.choose(PROMPT) is session


async def test_a_source_tells_who_comes_and_goes() -> None:
    class Rumour:
        """Says that a first worker is there, then a second one instead."""

        def __init__(self, first: str, second: str) -> None:
            self.first, self.second = first, second
            self.told = asyncio.Event()

        def known(self) -> list[str]:
            return [self.first]

        async def follow(self, members: Membership) -> None:
            await self.told.wait()
            members.join(self.second)
            members.leave(self.first)

    async with serving(OddWorker()) as one, serving(OddWorker()) as other:
        source = Rumour(one, other)
        workers = WorkerDirectory(source, GrpcConfig(), "prefix", Expectation("m", 100))
        workers.start()
        try:
            await until(lambda: [s.address for s in workers.ready_sessions] == [one])
            source.told.set()
            await until(lambda: [s.address for s in workers.ready_sessions] == [other])
        finally:
            await workers.close()


async def test_why_no_worker_is_ready_is_told_worker_by_worker() -> None:
    wrong = OddWorker()
    wrong.info.model = "another"
    async with serving(wrong) as one, directory(one) as workers:
        await until(lambda: "another" in workers.why_not_ready())

        assert one in workers.why_not_ready()


async def test_a_worker_that_never_came_is_not_waited_for() -> None:
    async with directory("127.0.0.1:1", return_wait_s=300) as workers:
        assert not await asyncio.wait_for(workers.until_ready(None), 10)


async def test_a_lost_worker_is_waited_for_until_it_is_back_or_has_left_or_time_is_up() -> None:
    async with contextlib.AsyncExitStack() as first:
        worker = OddWorker()
        address = await first.enter_async_context(serving(worker))
        async with directory(address, return_wait_s=300) as workers:
            await until(lambda: bool(workers.ready_sessions))
            assert not await workers.until_ready(None)
            await first.aclose()
            await until(lambda: not workers.ready_sessions)

            assert await workers.until_ready(0.01)
            waiting = asyncio.ensure_future(workers.until_ready(None))
            await asyncio.sleep(0)
            assert not waiting.done()
            async with serving(OddWorker(), address=address):
                assert await asyncio.wait_for(waiting, 30)
                assert workers.ready_sessions
            await until(lambda: not workers.ready_sessions)
            waiting = asyncio.ensure_future(workers.until_ready(None))
            await asyncio.sleep(0)
            workers.leave(address)
            assert await asyncio.wait_for(waiting, 10)
            assert not await workers.until_ready(None)


async def test_long_after_its_loss_a_worker_is_not_waited_for() -> None:
    async with contextlib.AsyncExitStack() as first:
        address = await first.enter_async_context(serving(OddWorker()))
        async with directory(address) as workers:
            await until(lambda: bool(workers.ready_sessions))
            await first.aclose()
            await until(lambda: not workers.ready_sessions)

            assert not await workers.until_ready(None)


async def test_whoever_waits_hears_of_a_change() -> None:
    async with serving(OddWorker()) as address, directory(address) as workers:
        await asyncio.wait_for(workers.changed(), 10)
        await until(lambda: len(workers.ready_sessions) == 1)


def test_a_worker_of_another_model_is_refused_and_the_part_that_differs_is_named() -> None:
    expected = Expectation("m", 100, ModelFingerprint("aa", "bb", "cc"))
    info = OddWorker().info

    def why_not(fingerprint: str) -> str:
        info.model_fingerprint = fingerprint
        return expected.why_not(info)

    assert why_not("tokenizer=aa template=bb weights=cc") == ""
    assert why_not("") == why_not("weights=cc") == ""
    assert why_not("tokenizer=a1 template=bb weights=cc").startswith("its tokenizer differ")
    assert why_not("tokenizer=aa template=b1 weights=c1").startswith("its template and weights differ")


@pytest.mark.parametrize(("served", "usable"), [("M", True), ("org/m", True), ("other", False), ("m/other", False)])
def test_a_model_is_known_by_the_last_part_of_its_name(served: str, usable: bool) -> None:
    info = OddWorker().info
    info.model = served

    assert (Expectation("models/m", 100).why_not(info) == "") is usable


async def test_workers_with_other_weights_than_those_in_use_wait_until_these_are_gone() -> None:
    old, new = OddWorker(), OddWorker()
    old.info.model_fingerprint, new.info.model_fingerprint = "weights=1", "weights=2"
    async with contextlib.AsyncExitStack() as stack:
        left = contextlib.AsyncExitStack()
        one = await left.enter_async_context(serving(old))
        workers = await stack.enter_async_context(directory(one))
        await until(lambda: len(workers.ready_sessions) == 1)
        other = await stack.enter_async_context(serving(new))
        workers.join(other)
        await until(lambda: any("weights differ" in s.why_not_ready for s in workers.sessions))

        await left.aclose()
        await until(lambda: [s.address for s in workers.ready_sessions] == [other])


async def test_a_router_that_has_just_started_waits_until_it_has_met_its_workers() -> None:
    """Whether it met one is known once one takes requests, or each of them failed once; not before."""

    class Silent(OddWorker):
        async def GetWorkerInfo(self, request: Any, context: Any) -> worker_pb2.WorkerInfo:  # noqa: N802  # the proto's
            await asyncio.Event().wait()
            return self.info

    async with serving(Silent()) as never, directory(never, "127.0.0.1:1", return_wait_s=300) as workers:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(workers.until_met(None), 0.05)
        assert not workers.ready_sessions
        await workers.until_met(0.01)
        async with serving(OddWorker()) as good:
            workers.join(good)
            await asyncio.wait_for(workers.until_met(None), 30)
            assert len(workers.ready_sessions) == 1

    async with directory("127.0.0.1:1", return_wait_s=300) as workers:
        await asyncio.wait_for(workers.until_met(None), 30)
    async with directory(return_wait_s=300) as workers:
        await asyncio.wait_for(workers.until_met(None), 30)
