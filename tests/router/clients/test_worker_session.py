"""The router's side of a worker's session, against a real worker and against workers that break the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from qwenserve.router.clients import worker_session as session_module
from qwenserve.router.clients.directory import Expectation
from qwenserve.router.clients.worker_session import WorkerSession
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import ServiceError, WorkerLost
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.convert import with_neutral
from qwenserve.worker.engines.simulated.state import SimulatedConfig
from qwenserve.worker.v1 import worker_pb2
from tests.router.clients.odd_worker import OddWorker, answers_pings, requests_of, serving
from tests.system.stack import until
from tests.worker.running import running

SLOW = SimulatedConfig(step_s=0.02)


class Stream:
    """Notes what it is told. `raises` makes it fail when its session breaks; `lost` are all that have heard of it."""

    def __init__(self, *, raises: bool = False, last_token: float = 0.0, lost: list[Stream] | None = None) -> None:
        self.last_token = last_token
        self._lost = lost if lost is not None else []
        self.ids: list[int] = []
        self.ids_before_the_last: int | None = None
        self.finish: worker_pb2.Finish | None = None
        self.error: ServiceError | None = None
        self._raises = raises

    def token(self, token_id: int, now: float) -> None:
        self.ids.append(token_id)

    def tokens(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob], now: float) -> None:
        self.ids += ids

    def finishing(self, finish: worker_pb2.Finish) -> None:
        self.ids_before_the_last = len(self.ids)

    def finished(self, finish: worker_pb2.Finish) -> None:
        assert self.finish is None
        self.finish = finish

    def lost(self, error: ServiceError) -> None:
        self.error = error
        self._lost.append(self)
        if self._raises:
            raise RuntimeError("a stream's defect")

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.error is not None


@contextlib.asynccontextmanager
async def connected(address: str, *, ready: bool = True, **fields: Any) -> AsyncIterator[WorkerSession]:
    session = WorkerSession(address, fields.pop("config", GrpcConfig()), lambda: None, **fields)
    task = asyncio.get_running_loop().create_task(session.run())
    try:
        if ready:
            await until(lambda: session.ready)
        yield session
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def submit(
    session: WorkerSession, stream: Stream, prompt: Sequence[int] = (1, 2, 3), *, max_tokens: int = 4, **fields: Any
) -> int:
    sampling = with_neutral(sampling_pb2.SamplingParams(max_tokens=max_tokens))
    return session.submit(stream, prompt, sampling, request_id="r", **fields)


async def test_tokens_and_finish_reach_their_streams() -> None:
    streams = [Stream() for _ in range(5)]
    async with running() as worker, connected(f"127.0.0.1:{worker.port}") as session:
        for stream in streams:
            submit(session, stream)
        await until(lambda: all(stream.ended for stream in streams))

        assert [len(stream.ids) for stream in streams] == [4] * 5
        assert session.active == 0
        assert session.name == "w"


async def test_an_abort_that_leaves_together_with_its_submit_stops_it() -> None:
    stream = Stream()
    async with running(SLOW) as worker, connected(f"127.0.0.1:{worker.port}") as session:
        handle = submit(session, stream, max_tokens=1000)
        session.abort(handle)
        await until(lambda: stream.finish is not None)
        await worker.until_idle()

    assert stream.finish is not None
    assert stream.finish.reason == sampling_pb2.FINISH_REASON_ABORTED


async def test_whoever_has_been_silent_for_longest_hears_first_of_a_loss() -> None:
    """Those that got nothing from a worker that was there for a moment come first at the next one."""
    lost: list[Stream] = []
    streams = [Stream(last_token=at, lost=lost) for at in (3.0, 0.0, 9.0, 1.0)]
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(OddWorker()))
        async with connected(address) as session:
            for stream in streams:
                submit(session, stream)
            await stack.aclose()
            await until(lambda: all(stream.ended for stream in streams))
    assert [stream.last_token for stream in lost] == [0.0, 1.0, 3.0, 9.0]


async def test_a_forgotten_stream_hears_nothing_more() -> None:
    stream = Stream()
    async with running(SLOW) as worker, connected(f"127.0.0.1:{worker.port}") as session:
        handle = submit(session, stream, max_tokens=1000)
        await until(lambda: bool(stream.ids))
        heard = len(stream.ids)
        session.abort(handle)
        session.forget(handle)
        await worker.until_idle()

        assert (len(stream.ids), stream.ended) == (heard, False)


async def test_prefixes_are_kept_apart_by_salt() -> None:
    prompt = list(range(64))
    cached = []
    async with running() as worker, connected(f"127.0.0.1:{worker.port}") as session:
        for salt in ("", "a", "", "a", "b"):
            stream = Stream()
            submit(session, stream, prompt, cache_salt=salt)
            await until(lambda: stream.ended)  # noqa: B023  # awaited before the next turn
            assert stream.finish is not None
            cached.append(stream.finish.cached_tokens > 0)

    assert cached == [False, False, True, True, False]


async def test_a_deadline_far_away_is_no_error() -> None:
    stream = Stream()
    async with running() as worker, connected(f"127.0.0.1:{worker.port}") as session:
        submit(session, stream, deadline=time.monotonic() + 1e9)
        await until(lambda: stream.ended)

    assert stream.error is None


async def test_many_long_prompts_at_once_do_not_make_a_message_beyond_the_limit() -> None:
    config = GrpcConfig(max_message_bytes=65536)
    streams = [Stream() for _ in range(16)]
    quick = SimulatedConfig(step_s=0.001, prefill_tokens_per_s=1e9)
    async with (
        running(quick, max_running=16) as worker,
        connected(f"127.0.0.1:{worker.port}", config=config) as session,
    ):
        for number, stream in enumerate(streams):
            submit(session, stream, [100_000 + number] * 6000, max_tokens=1)
        await until(lambda: all(stream.ended for stream in streams))

    assert [stream.error for stream in streams] == [None] * 16


async def test_a_session_that_breaks_is_told_to_all_and_begun_anew() -> None:
    broken, beside = Stream(raises=True), Stream()

    async def leaves(worker: OddWorker, context: Any) -> None:
        if worker.sessions > 1:
            return await answers_pings(worker, context)
        async for message in requests_of(context):
            if message.submits:
                return None
            await context.write(worker_pb2.SessionResponse())
        return None

    async with serving(worker := OddWorker(leaves)) as address, connected(address) as session:
        submit(session, broken)
        submit(session, beside)
        await until(lambda: beside.ended)
        await until(lambda: session.ready)

        assert isinstance(broken.error, WorkerLost)
        assert isinstance(beside.error, WorkerLost)
        assert worker.sessions == 2
        assert session.active == 0


@pytest.mark.parametrize(
    "wrong",
    [
        worker_pb2.SessionResponse(handles=[1, 2], counts=[1], token_ids=[5]),
        worker_pb2.SessionResponse(handles=[1], counts=[3], token_ids=[5]),
        worker_pb2.SessionResponse(handles=[1], counts=[1], token_ids=[5, 6]),
        worker_pb2.SessionResponse(handles=[1], token_ids=[5, 6]),
        worker_pb2.SessionResponse(handles=[1, 2], token_ids=[5]),
    ],
    ids=["a count is missing", "ids are missing", "too many ids", "more than one each", "less than one each"],
)
async def test_arrays_that_do_not_fit_break_the_session_and_deliver_nothing(wrong: Any) -> None:
    stream = Stream()

    async def misleads(worker: OddWorker, context: Any) -> None:
        async for message in requests_of(context):
            await context.write(wrong if message.submits else worker_pb2.SessionResponse())

    async with serving(OddWorker(misleads)) as address, connected(address) as session:
        submit(session, stream)
        await until(lambda: stream.ended)

    assert isinstance(stream.error, WorkerLost)
    assert stream.ids == []


async def test_handles_that_nobody_knows_are_passed_over() -> None:
    stream = Stream()

    async def strays(worker: OddWorker, context: Any) -> None:
        async for message in requests_of(context):
            finishes = [worker_pb2.Finish(handle=submit.handle) for submit in message.submits]
            stray = worker_pb2.Finish(handle=77)
            await context.write(
                worker_pb2.SessionResponse(
                    handles=[99, 1], counts=[2, 1], token_ids=[5, 6, 7], finishes=[stray, *finishes]
                )
            )

    async with serving(OddWorker(strays)) as address, connected(address) as session:
        submit(session, stream)
        await until(lambda: stream.ended)

    assert stream.ids == [7]
    assert stream.ids_before_the_last == 0


async def test_a_worker_that_never_answers_is_given_up_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_CONNECT_TIMEOUT_S", 0.05)

    async def silent(worker: OddWorker, context: Any) -> None:
        async for _ in requests_of(context):
            pass

    async with serving(worker := OddWorker(silent)) as address, connected(address, ready=False) as session:
        await until(lambda: worker.sessions >= 2)
        assert not session.ready

        worker.behaviour = answers_pings
        await until(lambda: session.ready)


async def test_a_worker_that_must_not_be_used_is_not_until_it_has_changed() -> None:
    expected = Expectation("M", 100)
    worker = OddWorker()
    worker.info.model = "another"

    async with serving(worker) as address, connected(address, ready=False, why_not=expected.why_not) as session:
        await until(lambda: worker.asked >= 2)
        assert not session.ready
        assert worker.sessions == 0
        with pytest.raises(WorkerLost):
            submit(session, Stream())

        worker.info.model = "m"
        await until(lambda: session.ready)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"model": "x"}, "model"), ({"vocab_size": 99}, "vocabulary"), ({"max_model_len": 0}, "window")],
)
def test_the_reason_names_what_does_not_fit(change: dict[str, Any], word: str) -> None:
    info = OddWorker().info
    for name, value in change.items():
        setattr(info, name, value)

    assert word in Expectation("m", 100).why_not(info)
    assert Expectation("m", 100).why_not(OddWorker().info) == ""


async def test_a_draining_worker_takes_no_requests_until_a_new_one_stands_there() -> None:
    async def drains(worker: OddWorker, context: Any) -> None:
        async for message in requests_of(context):
            finishes = [worker_pb2.Finish(handle=s.handle, error_reason="DRAINING") for s in message.submits]
            await context.write(worker_pb2.SessionResponse(finishes=finishes))
            if finishes:
                worker.behaviour = answers_pings
                await released.wait()
                return

    released = asyncio.Event()
    stream = Stream()
    async with serving(OddWorker(drains)) as address, connected(address) as session:
        submit(session, stream)
        await until(lambda: stream.ended)
        assert not session.ready

        released.set()
        await until(lambda: session.ready)


async def test_the_load_stays_fresh_without_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_STAMP_AGE_S", 0.01)
    async with running() as worker, connected(f"127.0.0.1:{worker.port}") as session:
        first = session.load.sequence

        await until(lambda: session.load.sequence > first + 1)


async def test_what_the_worker_has_not_read_is_counted_beside_its_stamp() -> None:
    """A stamp made before the worker read a submit must not make the router forget it."""
    first_read, second_read = asyncio.Event(), asyncio.Event()

    async def reads_when_told(worker: OddWorker, context: Any) -> None:
        sequence = 0

        async def stamp(read_handle: int) -> None:
            nonlocal sequence
            sequence += 1
            load = worker_pb2.Load(sequence=sequence, read_handle=read_handle)
            await context.write(worker_pb2.SessionResponse(load=load))

        async for message in requests_of(context):
            if message.ping:
                await stamp(0)
            for submitted in message.submits:
                await stamp(submitted.handle - 1)
                await (first_read, second_read)[submitted.handle - 1].wait()
                await stamp(submitted.handle)

    async with serving(OddWorker(reads_when_told)) as address, connected(address) as session:
        before = session.load.sequence
        submit(session, Stream(), [1] * 10)
        submit(session, Stream(), [1] * 100)
        await until(lambda: session.load.sequence > before)
        assert (session.unread_requests, session.unread_tokens) == (2, 110)

        first_read.set()
        await until(lambda: session.load.read_handle == 1)
        assert (session.unread_requests, session.unread_tokens) == (1, 100)

        second_read.set()
        await until(lambda: session.load.read_handle == 2)
        assert (session.unread_requests, session.unread_tokens) == (0, 0)


async def test_a_real_worker_says_what_it_has_read_and_how_many_steps_it_made() -> None:
    stream = Stream()
    async with running(SLOW) as worker, connected(f"127.0.0.1:{worker.port}") as session:
        handle = submit(session, stream, max_tokens=5)
        await until(lambda: stream.ended)

        assert session.load.read_handle == handle
        assert session.load.steps >= 5
        assert session.unread_requests == 0


async def test_a_worker_with_work_that_makes_no_step_is_lost_until_it_makes_one() -> None:
    async def stands_still(worker: OddWorker, context: Any) -> None:
        async for message in requests_of(context):
            worker.received.append(message)
            if message.ping or message.submits:
                load = worker_pb2.Load(sequence=len(worker.received), running=1, steps=worker.steps)
                await context.write(worker_pb2.SessionResponse(load=load))

    worker, stream = OddWorker(stands_still), Stream()
    async with serving(worker) as address, connected(address, stall_timeout_s=0.4) as session:
        submit(session, stream)
        await until(lambda: stream.ended)
        assert stream.error is not None
        assert "no engine step" in stream.error.message

        sessions = worker.sessions
        await until(lambda: worker.sessions > sessions)
        assert not session.ready

        worker.steps += 1
        await until(lambda: session.ready)


async def test_a_worker_that_answers_no_ping_is_lost() -> None:
    async def falls_silent(worker: OddWorker, context: Any) -> None:
        async for message in requests_of(context):
            worker.received.append(message)
            if len(worker.received) == 1:
                await context.write(worker_pb2.SessionResponse())

    async with serving(OddWorker(falls_silent)) as address, connected(address, stall_timeout_s=0.4) as session:
        submit(session, stream := Stream())
        await until(lambda: stream.ended)

    assert stream.error is not None
    assert "has said nothing" in stream.error.message


async def test_a_long_prefill_is_no_stall() -> None:
    """Parts of a prompt count as steps: 60 of them, each a fraction of the time limit, all of them far more."""
    slow_prefill = SimulatedConfig(step_s=0.001, prefill_tokens_per_s=1000.0, prefill_chunk_tokens=20)
    stream = Stream()
    address = contextlib.AsyncExitStack()
    async with address, running(slow_prefill) as worker:
        session = await address.enter_async_context(connected(f"127.0.0.1:{worker.port}", stall_timeout_s=0.8))
        submit(session, stream, [1] * 1200, max_tokens=2)
        await until(lambda: stream.ended)

    assert stream.error is None
    assert len(stream.ids) == 2
