"""Answers whose worker is lost, drains or has no room: they go on elsewhere, wait, or say why they cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from qwenserve.router.chat.thinking import ThinkingBudget
from qwenserve.router.generation.continuation import ContinuationLimits, Continuations
from qwenserve.runtime.errors import InternalError, QueueFull, ServiceError, Unavailable, WorkerLost
from qwenserve.type.v1 import sampling_pb2
from tests.router.chat.scripted_session import Heard, ScriptedSession
from tests.router.chat.test_answer import Asked, ids, plan
from tests.system.stack import until

PATIENT = ContinuationLimits(wait_s=60.0)
BREAKS = ["lost", "WORKER_LOST", "DRAINING", "SLOW_READER"]


def break_off(session: ScriptedSession, handle: int, how: str) -> None:
    """Ends a leg as a worker does that was lost, or that says so itself."""
    if how == "lost":
        session.lose(handle)
    else:
        session.fail(handle, how)


@pytest.mark.parametrize("how", BREAKS)
async def test_another_worker_goes_on_where_one_stopped(how: str) -> None:
    """The caller hears one answer, whose prompt and tokens count once, and that it went on."""
    first, second = ScriptedSession("a"), ScriptedSession("b")
    asked = Asked(sessions=(first, second))

    first.give(1, ids("Hello"))
    break_off(first, 1, how)
    second.give(1, ids(" world"))
    second.finish(1, cached_tokens=9)

    assert asked.sink.content() == "Hello world"
    assert second.submitted[1].prompt == [1, 2, 3, *ids("Hello")]
    assert second.submitted[1].fields["answer_offset"] == 3
    usage = asked.sink.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, len(ids("Hello world")))
    assert usage.cached_tokens == 3  # ids of the answer are no prompt's
    assert usage.continued_legs == 1
    assert asked.sink.seen[0].start.worker == "a"
    assert asked.outcomes[0].workers == ["b"]


@pytest.mark.parametrize(
    ("counts", "asked_for", "told"),
    [
        (False, {"presence_penalty": 0.5}, True),
        (False, {"frequency_penalty": -0.5}, True),
        (False, {"repetition_penalty": 1.1}, True),
        (False, {"repetition_penalty": 1.0, "temperature": 0.7}, False),
        (True, {"presence_penalty": 0.5}, False),
    ],
)
async def test_penalties_that_an_engine_cannot_count_from_the_beginning_are_told(
    counts: bool, asked_for: dict[str, Any], told: bool
) -> None:
    """Only where the answer went on there, and is penalized at all."""
    first, second = ScriptedSession("a"), ScriptedSession("b", counts_from_offset=counts)
    asked = Asked(replace(plan(), sampling=sampling_pb2.SamplingParams(**asked_for)), sessions=(first, second))
    first.give(1, ids("Hello"))
    first.lose(1)
    second.end(1, ids(" world"))

    assert asked.sink.usage.penalties_approximate is told
    whole = Asked(replace(plan(), sampling=sampling_pb2.SamplingParams(**asked_for)), sessions=(second, first))
    second.end(2, ids("Hello world"))
    assert not whole.sink.usage.penalties_approximate


@pytest.mark.parametrize("how", BREAKS)
async def test_tokens_of_the_message_that_breaks_it_are_heard(how: str) -> None:
    """A drain's last message may bring both: none is lost and none comes twice."""
    first, second = ScriptedSession("a"), ScriptedSession("b")
    asked = Asked(sessions=(first, second))

    first.give(1, ids("One"))
    if how == "lost":
        first.give(1, ids(" two"))
        first.lose(1)
    else:
        first.end(1, ids(" two"), error_reason=how, error_message="told so")
    second.end(1, ids(" three"))

    assert asked.sink.content() == "One two three"
    assert asked.sink.usage.completion_tokens == len(ids("One two three"))


async def test_with_one_worker_the_answer_waits_for_its_restart() -> None:
    asked = Asked(limits=PATIENT)
    worker = asked.worker

    worker.give(1, ids("Hello"))
    worker.lose(1)
    assert (asked.sink.error, asked.continuations.waiting) == (None, 1)
    worker.connection = 2
    await until(lambda: len(worker.submitted) == 2)
    worker.end(2, ids(" world"))

    assert asked.sink.content() == "Hello world"
    assert asked.continuations.waiting == 0


async def test_a_wait_in_vain_ends_with_an_error_that_says_when_to_try_again() -> None:
    asked = Asked(limits=ContinuationLimits(wait_s=0.01))

    asked.worker.give(1, ids("Hello"))
    asked.worker.lose(1)
    await until(lambda: asked.sink.error is not None)

    error = asked.sink.error
    assert isinstance(error, WorkerLost)
    assert error.http_status == 503
    assert error.retry_after_s
    assert "0.01 s" in error.message
    assert asked.continuations.waiting == 0


async def test_a_request_that_nothing_came_of_waits_as_well_but_not_for_a_full_queue() -> None:
    """A worker lost before the first token is waited for; one whose queue is full is told at once, as ever."""
    lost = Asked(limits=PATIENT)
    lost.worker.lose(1)
    full = Asked(limits=PATIENT)
    full.worker.fail(1, "QUEUE_FULL")

    assert (lost.sink.error, lost.continuations.waiting) == (None, 1)
    assert isinstance(full.sink.error, QueueFull)
    lost.answer.cancel()


async def test_a_worker_that_said_it_is_lost_gets_nothing_more_until_it_is_another_one() -> None:
    """Its session stands while its engine is dead: the next leg is not for it."""
    asked = Asked(limits=PATIENT)
    worker = asked.worker

    worker.give(1, ids("Hello"))
    worker.fail(1, "WORKER_LOST")
    looked = asyncio.Event()
    asyncio.get_running_loop().call_later(0.25, looked.set)  # it has been looked twice by then
    await asyncio.wait_for(looked.wait(), 10)
    assert len(worker.submitted) == 1
    worker.connection += 1
    await until(lambda: len(worker.submitted) == 2)

    asked.answer.cancel()


async def test_a_full_worker_is_asked_again() -> None:
    """An answer that has begun is not refused for a full queue: it waits for room."""
    first, second = ScriptedSession("a"), ScriptedSession("b")
    asked = Asked(sessions=(first, second), limits=PATIENT)

    first.give(1, ids("Hello"))
    first.lose(1)
    second.fail(1, "QUEUE_FULL")
    await until(lambda: len(second.submitted) == 2)
    second.end(2, ids(" world"))

    assert asked.sink.content() == "Hello world"
    assert asked.sink.usage.completion_tokens == len(ids("Hello world"))


async def test_an_answer_goes_on_so_often_and_no_more() -> None:
    asked = Asked(limits=PATIENT._replace(legs=2))
    worker = asked.worker

    for handle in (1, 2, 3):
        worker.give(handle, ids("x"))
        worker.lose(handle)
        worker.connection = handle + 1
        if handle < 3:
            await until(lambda handle=handle: len(worker.submitted) == handle + 1)

    assert isinstance(asked.sink.error, WorkerLost)
    assert "router.continuation_legs" in asked.sink.error.message


async def test_where_it_is_switched_off_a_loss_is_an_error() -> None:
    first, second = ScriptedSession("a"), ScriptedSession("b")
    asked = Asked(plan(), plan(), sessions=(first, second), limits=PATIENT._replace(legs=0))

    first.give(1, ids("Hello"))
    first.lose(1)

    assert isinstance(asked.sink.error, WorkerLost)
    assert first.aborted == [2]
    assert first.forgotten == {2}
    assert not second.submitted


async def test_a_request_that_ends_every_worker_that_reads_it_ends() -> None:
    """Whatever it is that kills them, it must not go round for ever."""
    sessions = [ScriptedSession(name) for name in "abcdefgh"]
    asked = Asked(sessions=sessions, limits=PATIENT)

    for session in sessions:
        if session.submitted:
            session.lose(1)

    assert isinstance(asked.sink.error, WorkerLost)
    assert "in a row" in asked.sink.error.message
    assert len([session for session in sessions if session.submitted]) == 5


async def test_what_cannot_be_helped_by_another_worker_fails() -> None:
    first, second = ScriptedSession("a"), ScriptedSession("b")
    asked = Asked(sessions=(first, second), limits=PATIENT)

    first.give(1, ids("Hello"))
    first.fail(1, "INTERNAL")

    assert isinstance(asked.sink.error, ServiceError)
    assert not second.submitted


async def test_after_a_big_loss_answers_are_read_again_a_few_at_a_time() -> None:
    """Others run where they go on: the tokens to be read again at a time are bounded, and each gets its turn."""
    first, second = ScriptedSession("a"), ScriptedSession("b")
    asked = Asked(*(plan() for _ in range(5)), sessions=(first, second), limits=PATIENT._replace(prefill_tokens=8))
    for handle in range(1, 6):
        first.give(handle, ids("x"))
    for handle in range(1, 6):
        first.lose(handle)

    assert len(second.submitted) == 2  # of four tokens each
    for handle in range(1, 6):
        await until(lambda handle=handle: handle in second.submitted)
        assert len(second.submitted) <= handle + 1
        second.give(handle, ids(" y"))
    for handle in range(1, 6):
        second.finish(handle)

    assert [asked.sink.content(choice) for choice in range(5)] == ["x y"] * 5
    assert asked.sink.usage.continued_legs == 5


@pytest.mark.parametrize("how", ["cancel", "fail"])
async def test_an_answer_that_ends_while_it_waits_is_forgotten(how: str) -> None:
    """All its choices wait; nothing of it is left, and nothing is submitted for it."""
    asked = Asked(plan(), plan(), limits=PATIENT)
    for handle in (1, 2):
        asked.worker.lose(handle)
    assert asked.continuations.waiting == 2

    if how == "cancel":
        asked.answer.cancel()
    else:
        asked.answer.fail(WorkerLost("enough"))
    asked.worker.connection = 2

    assert asked.continuations.waiting == 0
    assert len(asked.worker.submitted) == 2
    assert len(asked.outcomes) == 1


async def test_all_choices_of_an_answer_that_waited_in_vain_end_once() -> None:
    asked = Asked(plan(), plan(), limits=ContinuationLimits(wait_s=0.01))
    for handle in (1, 2):
        asked.worker.lose(handle)

    await until(lambda: asked.sink.error is not None)

    assert asked.continuations.waiting == 0
    assert len(asked.outcomes) == 1


async def test_the_pause_is_told_once_the_answer_goes_on() -> None:
    pauses: list[float] = []
    first, second = ScriptedSession("a"), ScriptedSession("b")
    asked = Asked(sessions=(first, second), on_resumed=pauses.append)

    first.give(1, ids("Hello"))
    first.lose(1)
    assert not pauses
    second.give(1, ids(" world"))
    second.give(1, ids(" world"))

    assert len(pauses) == 1
    assert pauses[0] >= 0
    asked.answer.cancel()


class Raising(Heard):
    """A sink with a defect that shows when it is told of the failure."""

    def failed(self, error: ServiceError) -> None:
        super().failed(error)
        raise RuntimeError("a sink's defect")


async def test_a_sink_that_raises_does_not_stop_the_others_that_wait() -> None:
    limits = ContinuationLimits(wait_s=0.01)
    one = Asked(sink=Raising(), limits=limits)
    two = Asked(limits=limits, continuations=one.continuations)

    one.worker.lose(1)
    two.worker.lose(1)

    await until(lambda: two.sink.error is not None)
    assert isinstance(one.sink.error, WorkerLost)


async def test_a_defect_in_choosing_ends_one_answer_and_not_the_others() -> None:
    """Whatever raises while a leg is started: the other answers of the broken session go on."""
    first, second = ScriptedSession("a"), ScriptedSession("b")
    chosen = iter([first])

    def choose(prompt: Sequence[int], tried: frozenset[str]) -> Any:
        for session in chosen:
            return session
        raise RuntimeError("a policy's defect")

    one = Asked(choose=choose, limits=PATIENT)
    two = Asked(sessions=(first, second), limits=PATIENT, continuations=one.continuations)
    for handle in (1, 2):
        first.give(handle, ids("x"))
    for handle in (1, 2):
        first.lose(handle)
    second.end(1, ids(" y"))

    assert isinstance(one.sink.error, InternalError)
    assert two.sink.content() == "x y"
    assert one.continuations.waiting == 0


async def test_what_was_cached_is_what_the_first_worker_found() -> None:
    """A leg that goes on finds all of the prompt where the one before it computed it: that is no news."""
    asked = Asked(replace(plan(thinks=True), thinking=ThinkingBudget(1, ids("</think>"), frozenset(ids("</think>")))))

    asked.worker.end(1, ids("Hm")[:1], cached_tokens=2)
    asked.worker.end(2, ids("Yes"), cached_tokens=3)

    assert asked.sink.usage.cached_tokens == 2
    assert asked.sink.content() == "Yes"


async def test_an_engine_that_stops_short_of_the_budget_is_not_asked_for_ever() -> None:
    asked = Asked(replace(plan(thinks=True), thinking=ThinkingBudget(50, ids("</think>"), frozenset(ids("</think>")))))

    asked.worker.end(1, ids("Hm"))

    assert len(asked.worker.submitted) == 1
    assert not asked.sink.finish().thinking_cut
    assert asked.sink.usage.completion_tokens == len(ids("Hm"))


class Stub:
    """A generation that workers take, or do not."""

    tokens_so_far = 1

    def __init__(self, *, welcome: bool) -> None:
        self.welcome = welcome
        self.tries = 0
        self.error: ServiceError | None = None

    def start_leg(self) -> None:
        self.tries += 1
        if not self.welcome:
            raise Unavailable("not for this one")

    def give_up(self, error: ServiceError) -> None:
        self.error = error

    def defect(self, error: Exception) -> None:
        raise AssertionError(error)


async def test_however_many_no_worker_takes_the_others_get_their_turn() -> None:
    """A look tries a bounded number that is refused, and the next one begins with the others."""
    continuations = Continuations(PATIENT)
    refused = [Stub(welcome=False) for _ in range(100)]
    for stub in refused:
        continuations.go_on(stub, WorkerLost("gone"), patient=True)
    last = Stub(welcome=False)
    continuations.go_on(last, WorkerLost("gone"), patient=True)
    before = sum(stub.tries for stub in refused)
    last.welcome = True

    await until(lambda: continuations.waiting == 100)

    assert last.tries >= 1
    assert sum(stub.tries for stub in refused) - before <= 3 * 64
    for stub in refused:
        continuations.forget(stub)
    assert continuations.waiting == 0
