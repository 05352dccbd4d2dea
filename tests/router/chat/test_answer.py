"""One answer between a worker's session and a sink, whatever either of them does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.answer import Answer, AnswerOutcome
from qwenserve.router.chat.call import Call
from qwenserve.router.chat.choice import ChoicePlan
from qwenserve.router.generation.continuation import ContinuationLimits, Continuations
from qwenserve.runtime.errors import DeadlineExceeded, InternalError, QueueFull, Unavailable
from qwenserve.text.assets import load_assets
from qwenserve.text.pipeline import AnswerPipeline, CompletionPipeline, PipelineSettings
from qwenserve.type.v1 import sampling_pb2
from tests.router.chat.scripted_session import Heard, ScriptedSession, Workers, finish_of
from tests.system.stack import TINY, until

ASSETS = load_assets(TINY)
TOKENIZER = ASSETS.tokenizer
END = min(ASSETS.eos_token_ids)
STOP, LENGTH = sampling_pb2.FINISH_REASON_STOP, sampling_pb2.FINISH_REASON_LENGTH
TOOL_CALLS = sampling_pb2.FINISH_REASON_TOOL_CALLS
NO_WAIT = ContinuationLimits(wait_s=0.0)
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


def plan(prompt: Sequence[int] = (1, 2, 3), *, lead: str = "", thinks: bool = False, **settings: Any) -> ChoicePlan:
    given = PipelineSettings(eos_token_ids=ASSETS.eos_token_ids, **settings)
    pipeline = AnswerPipeline(TOKENIZER, given, starts_in_reasoning=thinks)
    return ChoicePlan(prompt, sampling_pb2.SamplingParams(), pipeline, ASSETS.eos_token_ids, lead)


class Asked:
    """An answer that has begun."""

    def __init__(
        self,
        *plans: ChoicePlan,
        sessions: Sequence[ScriptedSession] = (),
        sink: Heard | None = None,
        deadline: float | None = None,
        timeout_s: float = 60.0,
        token_ids: bool = False,
        choose: Callable[..., Any] | None = None,
        limits: ContinuationLimits = NO_WAIT,
        continuations: Continuations | None = None,
        on_resumed: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.continuations = continuations or Continuations(limits, on_resumed)
        self.sessions = sessions or (ScriptedSession(),)
        self.worker = self.sessions[0]
        self.sink = sink or Heard()
        self.outcomes: list[AnswerOutcome] = []
        self.answer = Answer(
            "chat",
            Call("r-1", deadline),
            chat_pb2.ChatEvent(start=chat_pb2.StreamStart(id="a-1")),
            self.sink,
            TOKENIZER,
            began=time.monotonic(),
            want_token_ids=token_ids,
            on_end=lambda _, outcome: self.outcomes.append(outcome),
        )
        self.answer.begin(
            plans or (plan(),),
            choose or Workers(*self.sessions).choose,
            self.continuations,
            priority=3,
            cache_salt="tenant",
            timeout_s=timeout_s,
        )


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text).tolist()


async def test_start_comes_first_a_finish_per_choice_and_usage_last() -> None:
    asked = Asked()

    asked.worker.give(1, ids("Hello"))
    asked.worker.finish(1, cached_tokens=2)

    assert asked.sink.kinds[0] == "start"
    assert asked.sink.seen[0].start.worker == "w"
    assert asked.sink.content() == "Hello"
    assert asked.sink.finish().reason == LENGTH
    assert asked.sink.usage.completion_tokens == len(ids("Hello"))
    assert (asked.sink.usage.prompt_tokens, asked.sink.usage.cached_tokens) == (3, 2)
    assert [(o.error, o.cancelled) for o in asked.outcomes] == [(None, False)]


async def test_what_the_last_message_brings_leaves_at_once() -> None:
    asked = Asked()

    asked.worker.give(1, ids("a"))
    before = asked.sink.calls
    asked.worker.end(1, ids(" b c d"))

    assert asked.sink.calls == before + 1
    assert asked.sink.content() == "a b c d"
    assert asked.sink.kinds[-2:] == ["finish", "usage"]
    assert asked.sink.usage.completion_tokens == len(ids("a")) + len(ids(" b c d"))


async def test_an_answer_of_one_message_is_one_delivery_from_start_to_usage() -> None:
    asked = Asked(plan(thinks=True), token_ids=True)

    asked.worker.end(1, ids("Hmm"))

    assert asked.sink.calls == 1
    assert asked.sink.kinds == ["start", "reasoning_delta", "finish", "usage"]
    assert [i for event in asked.sink.seen for i in event.token_ids] == ids("Hmm")


async def test_choices_that_end_in_one_message_keep_their_own_order() -> None:
    asked = Asked(*(plan() for _ in range(3)))
    for handle in (1, 2, 3):
        asked.worker.give(handle, ids("x"))

    for handle in (1, 2):
        asked.worker.submitted[handle].stream.finishing(finish_of(handle))
    for handle in (1, 2, 3):
        asked.worker.give(handle, ids(" y"))
    for handle in (1, 2):
        asked.worker.finish(handle)
    asked.worker.end(3, ids(" z"))

    assert [asked.sink.content(choice) for choice in range(3)] == ["x y", "x y", "x y z"]
    for choice in range(3):
        of_it = [
            kind for kind, event in zip(asked.sink.kinds, asked.sink.seen, strict=True) if event.choice_index == choice
        ]
        assert of_it.index("finish") == len(of_it) - 1 - (choice == 0)  # the usage counts as choice 0's
    assert asked.sink.kinds[-1] == "usage"


async def test_tokens_that_come_with_a_failure_are_heard_before_it() -> None:
    asked = Asked()

    asked.worker.end(1, ids("Hello"), error_reason="INTERNAL", error_message="told so")

    assert asked.sink.content() == "Hello"
    assert isinstance(asked.sink.error, InternalError)


async def test_a_stop_string_in_the_last_message_aborts_nothing() -> None:
    asked = Asked(plan(stop_strings=("END",)))

    asked.worker.end(1, ids("All said. END and more"))

    assert asked.worker.aborted == []
    assert asked.sink.content() == "All said. "
    assert asked.sink.finish().stop_string == "END"


async def test_the_submission_carries_priority_deadline_and_salt() -> None:
    asked = Asked(deadline=time.monotonic() + 5)

    fields = asked.worker.submitted[1].fields

    assert (fields["priority"], fields["cache_salt"], fields["request_id"]) == (3, "tenant", "r-1")
    assert 0 < fields["deadline"] - time.monotonic() <= 5
    asked.answer.cancel()


async def test_choices_of_one_prompt_count_it_once_and_end_in_any_order() -> None:
    prompt = [1, 2, 3]
    asked = Asked(*(plan(prompt) for _ in range(3)))

    for handle in (3, 1, 2):
        asked.worker.give(handle, ids("a b"))
        asked.worker.finish(handle)

    assert (asked.sink.usage.prompt_tokens, asked.sink.usage.completion_tokens) == (3, 3 * len(ids("a b")))
    assert asked.sink.kinds.count("finish") == 3
    assert asked.sink.kinds.count("usage") == 1


@pytest.mark.parametrize("after", ["DRAINING", "WORKER_LOST", "DEADLINE_EXCEEDED", "INTERNAL"])
async def test_a_failure_of_the_engine_after_a_stop_string_does_not_fail_the_answer(after: str) -> None:
    asked = Asked(plan(stop_strings=("END",)))

    asked.worker.give(1, ids("All said. END and more"))
    assert asked.worker.aborted == [1]
    asked.worker.fail(1, after)

    assert asked.sink.error is None
    assert asked.sink.content() == "All said. "
    assert asked.sink.finish().stop_string == "END"
    assert asked.sink.usage.completion_tokens > 0


async def test_a_session_that_breaks_after_a_stop_string_does_not_fail_the_answer() -> None:
    asked = Asked(plan(stop_strings=("END",)))

    asked.worker.give(1, ids("Done END"))
    asked.worker.lose(1)

    assert asked.sink.error is None
    assert asked.sink.kinds[-1] == "usage"


async def test_a_stop_string_in_one_choice_leaves_the_others_running() -> None:
    asked = Asked(*(plan(stop_strings=("END",)) for _ in range(2)))

    asked.worker.give(1, ids("one END"))
    asked.worker.finish(1, sampling_pb2.FINISH_REASON_ABORTED)
    asked.worker.give(2, ids("two"))
    asked.worker.finish(2)

    assert (asked.sink.content(0), asked.sink.content(1)) == ("one ", "two")
    assert (asked.sink.finish(0).reason, asked.sink.finish(1).reason) == (STOP, LENGTH)


async def test_every_token_of_the_answer_is_reported_once_and_none_after_its_end() -> None:
    sampling = sampling_pb2.SamplingParams(top_logprobs=0)
    asked = Asked(replace(plan(stop_strings=("END",)), sampling=sampling), token_ids=True)
    text = ids("Some words END more that nobody sees")

    asked.worker.give(1, text, logprobs=True)
    asked.worker.finish(1)

    reported = [token_id for event in asked.sink.seen for token_id in event.token_ids]
    logprobs = [item for event in asked.sink.seen for item in event.logprobs]
    assert reported == text[: asked.sink.usage.completion_tokens]
    assert [item.token_id for item in logprobs] == reported
    assert len(reported) < len(text)


async def test_half_a_character_is_reported_with_the_finish() -> None:
    asked = Asked(token_ids=True)
    half = ids("龘")[:1]

    asked.worker.give(1, half)
    asked.worker.finish(1)

    assert asked.sink.content() == ""
    assert [list(e.token_ids) for e in asked.sink.seen if e.token_ids] == [half]


@pytest.mark.parametrize("reason", ["QUEUE_FULL", "DRAINING", "WORKER_LOST"])
async def test_another_worker_is_tried_before_the_first_token(reason: str) -> None:
    first, second = ScriptedSession("a"), ScriptedSession("b")
    asked = Asked(sessions=(first, second))

    first.fail(1, reason)
    second.give(1, ids("Hi"))
    second.finish(1)

    assert asked.sink.error is None
    assert asked.sink.content() == "Hi"
    assert asked.sink.seen[0].start.worker == "b"
    assert asked.outcomes[0].workers == ["b"]


async def test_the_workers_own_reason_is_told_when_none_is_left() -> None:
    first, second = ScriptedSession("a"), ScriptedSession("b")
    asked = Asked(sessions=(first, second))

    first.lose(1)
    second.fail(1, "QUEUE_FULL")

    assert isinstance(asked.sink.error, QueueFull)
    assert asked.sink.error.retry_after_s
    assert len(asked.outcomes) == 1


async def test_nothing_is_left_running_when_a_later_choice_finds_no_worker() -> None:
    worker, sink = ScriptedSession(), Heard()
    found = iter([worker])

    def choose(prompt: Sequence[int], tried: frozenset[str]) -> Any:
        for session in found:
            return session
        raise Unavailable("none left")

    with pytest.raises(Unavailable):
        Asked(plan(), plan(), sink=sink, choose=choose)

    assert worker.aborted == [1]
    assert worker.forgotten == {1}
    assert (sink.seen, sink.error) == ([], None)


async def test_a_deadline_that_has_passed_is_told_before_any_worker_hears_of_it() -> None:
    worker = ScriptedSession()

    with pytest.raises(DeadlineExceeded):
        Asked(sessions=(worker,), deadline=time.monotonic() - 1)

    assert not worker.submitted


@pytest.mark.parametrize("limit", ["call", "configuration"])
async def test_an_answer_ends_at_the_earlier_of_two_limits(limit: str) -> None:
    soon, late = 0.01, 60.0
    asked = Asked(
        deadline=time.monotonic() + (soon if limit == "call" else late), timeout_s=late if limit == "call" else soon
    )

    await until(lambda: asked.sink.error is not None)

    assert isinstance(asked.sink.error, DeadlineExceeded)
    assert asked.worker.aborted == [1]


async def test_a_far_deadline_is_noticed_when_it_is_looked_at() -> None:
    asked = Asked(timeout_s=600.0)

    asked.answer.end_if_late(time.monotonic() + 599.0)
    before = asked.sink.error
    asked.answer.end_if_late(time.monotonic() + 600.0)

    assert before is None
    assert isinstance(asked.sink.error, DeadlineExceeded)
    assert asked.worker.aborted == [1]


async def test_the_deadline_of_an_ended_answer_is_not_told() -> None:
    asked = Asked(timeout_s=0.01)
    asked.worker.give(1, ids("x"))
    asked.worker.finish(1)
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, passed.set)

    await asyncio.wait_for(passed.wait(), 5)

    assert asked.sink.error is None
    assert len(asked.outcomes) == 1


async def test_cancelling_stops_the_engine_and_silences_the_sink() -> None:
    asked = Asked(plan(), plan())
    asked.worker.give(1, ids("Hello"))
    heard = len(asked.sink.seen)

    asked.answer.cancel()
    asked.answer.cancel()
    asked.worker.give(2, ids("more"))
    asked.worker.finish(2)

    assert sorted(asked.worker.aborted) == [1, 2]
    assert len(asked.sink.seen) == heard
    assert [o.cancelled for o in asked.outcomes] == [True]


async def test_a_sink_that_cancels_while_it_is_told_hears_no_more() -> None:
    class Leaving(Heard):
        asked: Asked

        def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
            super().events(events)
            self.asked.answer.cancel()

    sink = Leaving()
    asked = sink.asked = Asked(sink=sink)

    asked.worker.give(1, ids("Hello"))
    asked.worker.finish(1)

    assert sink.kinds == ["start", "content_delta"]
    assert asked.worker.aborted == [1]


async def test_a_sink_that_raises_ends_its_own_answer_only() -> None:
    asked = Asked(sink=Heard(raises=True))

    asked.worker.give(1, ids("Hello"))  # would raise into the session's reader

    assert isinstance(asked.sink.error, InternalError)
    assert asked.worker.aborted == [1]
    assert [type(o.error) for o in asked.outcomes] == [InternalError]


async def test_an_answer_of_its_end_token_alone_is_empty() -> None:
    asked = Asked()

    asked.worker.give(1, [END])
    asked.worker.finish(1, STOP, stop_token_id=END)

    assert asked.sink.content() == ""
    assert asked.sink.finish().stop_token_id == END
    assert asked.sink.usage.completion_tokens == 1


async def test_an_answer_may_be_reasoning_alone() -> None:
    asked = Asked(plan(thinks=True))

    asked.worker.give(1, ids("Let me think"))
    asked.worker.finish(1)

    reasoning = "".join(event.reasoning_delta for event in asked.sink.seen)
    assert (reasoning, asked.sink.content()) == ("Let me think", "")
    assert asked.sink.usage.reasoning_tokens == asked.sink.usage.completion_tokens


async def test_one_tool_call_ends_an_answer_that_may_have_one_only() -> None:
    asked = Asked(plan(parse_tools="hermes", parallel_tool_calls=False), token_ids=True)

    asked.worker.give(1, ids(f"{CALL}\n{CALL}\n{CALL}"))
    asked.worker.finish(1, sampling_pb2.FINISH_REASON_ABORTED)

    assert asked.sink.kinds.count("tool_call_start") == 1
    assert asked.sink.finish().reason == TOOL_CALLS
    reported = sum(len(event.token_ids) for event in asked.sink.seen)
    assert reported == asked.sink.usage.completion_tokens


async def test_two_tool_calls_have_two_ids() -> None:
    asked = Asked(plan(parse_tools="hermes"))

    asked.worker.give(1, [*ids(f"{CALL}\n{CALL}"), END])
    asked.worker.finish(1, STOP, stop_token_id=END)

    calls = [event.tool_call_start for event in asked.sink.seen if event.HasField("tool_call_start")]
    assert [call.index for call in calls] == [0, 1]
    assert len({call.id for call in calls}) == 2


@pytest.mark.parametrize("answer", ["", " there"])
async def test_the_echoed_prompt_comes_even_where_nothing_follows(answer: str) -> None:
    pipeline = CompletionPipeline(TOKENIZER, PipelineSettings())
    asked = Asked(ChoicePlan(ids("Hi"), sampling_pb2.SamplingParams(), pipeline, lead="Hi"))

    if answer:
        asked.worker.give(1, ids(answer))
    asked.worker.finish(1)

    assert asked.sink.content() == f"Hi{answer}"


async def test_a_worker_that_counts_below_nothing_is_not_believed() -> None:
    asked = Asked()

    asked.worker.give(1, ids("x"))
    asked.worker.finish(1, cached_tokens=-1)

    assert asked.sink.usage.cached_tokens == 0
