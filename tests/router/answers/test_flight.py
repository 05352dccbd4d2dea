"""One generation, many readers: everybody gets all of it, in order and once, whoever comes and goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.router.answers.flight import Flight
from qwenserve.router.answers.record import Recording
from qwenserve.router.answers.tape import complete_tape
from qwenserve.router.generation.continuation import ContinuationLimits, Continuations
from qwenserve.router.generation.generation import Generation
from qwenserve.router.generation.leg import Placement
from qwenserve.runtime.errors import ServiceError
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2
from tests.router.chat.scripted_session import ScriptedSession, Workers

SAMPLING = sampling_pb2.SamplingParams(max_tokens=10_000, temperature=0)
PROMPT = (1, 2, 3)


class Reader:
    """A stream that writes down what it is given."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.logprobs: list[sampling_pb2.TokenLogprob] = []
        self.finishing_at = -1
        self.finish: worker_pb2.Finish | None = None
        self.error: ServiceError | None = None

    last_token = 0.0

    def token(self, token_id: int, now: float) -> None:
        self.tokens((token_id,), (), now)

    def tokens(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob], now: float) -> None:
        assert self.finish is None
        self.ids += ids
        self.logprobs += logprobs

    def finishing(self, finish: worker_pb2.Finish) -> None:
        assert self.finishing_at < 0
        self.finishing_at = len(self.ids)

    def finished(self, finish: worker_pb2.Finish) -> None:
        assert self.finish is None
        assert self.finishing_at >= 0
        self.finish = finish

    def give_up(self, error: ServiceError) -> None:
        self.error = error

    def lost(self, error: ServiceError) -> None:
        raise AssertionError("readers know nothing of sessions")


class Unheard:
    """A receiver that has given its generation away."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not the first receiver's any more")


class Shared:
    """A flight on scripted workers, with what became of it."""

    def __init__(self, *sessions: ScriptedSession) -> None:
        self.sessions = sessions or (ScriptedSession("a"),)
        self.recordings: list[Recording | None] = []
        choose, continuations = Workers(*self.sessions).choose, Continuations(ContinuationLimits())
        placement = Placement(choose, continuations, "r", 0, "", time.monotonic() + 60)
        generation = Generation(PROMPT, SAMPLING, frozenset(), placement, Unheard())
        self.flight = Flight(generation, SAMPLING, lambda _, kept: self.recordings.append(kept))
        generation.begin()

    def join(self) -> tuple[Reader, int]:
        reader = Reader()
        return reader, self.flight.submit(reader, PROMPT, SAMPLING, request_id="r")


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("give"), st.integers(1, 700)),
        st.tuples(st.just("join"), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 5)),
        st.tuples(st.just("stop"), st.integers(0, 5)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(acts=ACTS, last=st.integers(0, 600))
def test_whoever_stays_gets_everything(acts: list[tuple[str, int]], last: int):
    """Any order of tokens, joining, leaving and stopping: no id is lost, doubled or out of order."""
    asyncio.run(play(acts, last))


async def play(acts: list[tuple[str, int]], last: int) -> None:
    shared = Shared()
    [session] = shared.sessions
    stayer, _ = shared.join()
    readers: dict[int, Reader] = {}
    left: list[tuple[Reader, int]] = []
    stopped: dict[int, tuple[Reader, int]] = {}
    given_ids: list[int] = []

    def next_ids(count: int) -> list[int]:
        ids = list(range(len(given_ids), len(given_ids) + count))
        given_ids.extend(ids)
        return ids

    for act, number in acts:
        if act == "give":
            session.give(1, next_ids(number))
        elif act == "join":
            reader, handle = shared.join()
            readers[handle] = reader
        elif act == "turn":
            await turns(number)
        elif readers:
            handle = sorted(readers)[number % len(readers)]
            reader = readers.pop(handle)
            shared.flight.abort(handle)
            if act == "leave":
                shared.flight.forget(handle)
                left.append((reader, len(reader.ids)))
            else:
                stopped[handle] = (reader, len(reader.ids))
    session.end(1, next_ids(last), reason=sampling_pb2.FINISH_REASON_LENGTH)
    await turns(len(given_ids) // 100 + 5)

    for reader in (stayer, *readers.values()):
        assert reader.ids == given_ids
        assert reader.finish is not None
        assert reader.finish.reason == sampling_pb2.FINISH_REASON_LENGTH
    for reader, length in left:
        assert reader.ids == given_ids[:length]
        assert reader.finish is None
    for reader, length in stopped.values():
        assert reader.ids == given_ids[:length]
        assert reader.finish is not None
    [recording] = shared.recordings
    assert (recording is not None) == bool(given_ids)
    if recording is not None:
        assert list(recording.ids) == given_ids


async def test_the_first_reader_leaves_and_the_others_go_on():
    """The generation belongs to nobody; the engine stops with the last one."""
    shared = Shared()
    [session] = shared.sessions
    first, one = shared.join()
    second, two = shared.join()
    await turns()
    session.give(1, [5])
    shared.flight.abort(one)
    shared.flight.forget(one)
    session.give(1, [6])

    assert (first.ids, second.ids) == ([5], [5, 6])
    assert session.aborted == []
    shared.flight.abort(two)
    shared.flight.forget(two)
    assert set(session.aborted) == {1}
    assert session.forgotten == {1}
    assert shared.recordings == [None]
    assert not shared.flight.joinable


async def test_readers_that_have_enough_stop_the_engine_together():
    """At a stop string everybody stops at the same id: the engine is stopped, and what came is kept."""
    shared = Shared()
    [session] = shared.sessions
    readers = [shared.join() for _ in range(2)]
    await turns()
    session.give(1, [5, 6])
    shared.flight.abort(readers[0][1])
    assert session.aborted == []
    shared.flight.abort(readers[1][1])
    assert session.aborted == [1]
    assert not shared.flight.joinable
    session.finish(1, sampling_pb2.FINISH_REASON_ABORTED)

    assert [reader.ids for reader, _ in readers] == [[5, 6], [5, 6]]
    assert all(reader.finish is not None for reader, _ in readers)
    [recording] = shared.recordings
    assert recording is not None
    assert list(recording.ids) == [5, 6]


async def test_an_engine_that_was_stopped_by_others_leaves_nothing():
    """An answer that ended early for a reason of the engine's is given, and not kept."""
    shared = Shared()
    [session] = shared.sessions
    reader, _ = shared.join()
    await turns()
    session.give(1, [5])
    session.finish(1, sampling_pb2.FINISH_REASON_ABORTED)

    assert reader.finish is not None
    assert shared.recordings == [None]


async def test_a_failure_is_everybodys():
    """Where the generation cannot go on, all readers hear the reason; nobody may join."""
    shared = Shared()
    [session] = shared.sessions
    readers = [shared.join()[0] for _ in range(3)]
    await turns()
    session.give(1, [5])
    session.fail(1, "INVALID_REQUEST")

    for reader in readers:
        assert reader.finish is None
        assert reader.error is not None
        assert (reader.error.reason, reader.error.message) == ("INVALID_REQUEST", "told so")
    assert shared.recordings == [None]
    assert not shared.flight.joinable


async def test_another_worker_takes_over_unseen():
    """Readers know nothing of a worker that had to be left before the first token."""
    shared = Shared(ScriptedSession("a"), ScriptedSession("b"))
    one, two = shared.sessions
    reader = Reader()
    shared.flight.follow(reader, len(PROMPT))
    one.fail(1, "QUEUE_FULL")
    two.give(1, [5])
    two.finish(1, cached_tokens=2)

    assert reader.ids == [5]
    assert reader.finish is not None
    assert reader.finish.cached_tokens == 2
    assert shared.flight.name == "b"


async def test_log_probabilities_come_with_their_ids():
    """Late readers get them, too."""
    shared = Shared()
    [session] = shared.sessions
    early, _ = shared.join()
    await turns()
    session.give(1, [5, 6], logprobs=True)
    late, _ = shared.join()
    session.give(1, [7], logprobs=True)
    await turns()
    session.finish(1)

    for reader in (early, late):
        assert [item.token_id for item in reader.logprobs] == reader.ids == [5, 6, 7]


async def test_a_kept_answer_comes_in_pieces_and_can_be_left():
    """A long one lets others have their turn in between; a reader that stops or leaves gets no more."""
    ids = list(range(1000))
    finish = worker_pb2.Finish(reason=sampling_pb2.FINISH_REASON_STOP, stop_token_id=999)
    recording = Recording(ids, (), finish, 0.0)

    whole = Reader()
    complete_tape(recording).submit(whole, PROMPT, SAMPLING, request_id="r")
    assert whole.ids == []
    await turns(1)
    assert 0 < len(whole.ids) < 1000
    await turns(20)
    assert whole.ids == ids
    assert whole.finish is not None
    assert (whole.finish.stop_token_id, whole.finish.cached_tokens) == (999, len(PROMPT))

    leaver, tape = Reader(), complete_tape(recording)
    handle = tape.submit(leaver, PROMPT, SAMPLING, request_id="r")
    await turns(1)
    got = len(leaver.ids)
    tape.abort(handle)
    tape.forget(handle)
    await turns(20)
    assert (len(leaver.ids), leaver.finish) == (got, None)

    stopper, tape = Reader(), complete_tape(recording)
    handle = tape.submit(stopper, PROMPT, SAMPLING, request_id="r")
    await turns(1)
    tape.abort(handle)
    await turns(20)
    assert len(stopper.ids) == got
    assert stopper.finish is not None
