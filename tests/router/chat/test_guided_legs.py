"""A guide behind a thought: the leg before it, the leg that follows it, and what a lost worker leaves of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.answer import Answer
from qwenserve.router.chat.call import Call
from qwenserve.router.chat.choice import ChoicePlan
from qwenserve.router.chat.thinking import END_OF_THOUGHT, ThinkingBudget
from qwenserve.router.generation.continuation import ContinuationLimits, Continuations
from qwenserve.router.generation.leg import LegGuide
from qwenserve.runtime.errors import InvalidRequest, WorkerLost
from qwenserve.text.assets import load_assets
from qwenserve.text.pipeline import AnswerPipeline, PipelineSettings
from qwenserve.type.v1 import guide_pb2, sampling_pb2
from tests.router.chat.scripted_session import Heard, ScriptedSession, Workers

TINY = load_assets(Path(__file__).parents[3] / "models" / "qwen3-tiny")
TOKENIZER = TINY.tokenizer
CLOSE = TOKENIZER.added_ids["</think>"]
END = TOKENIZER.added_ids["<|im_end|>"]
STOP = sampling_pb2.FINISH_REASON_STOP
GUIDE = guide_pb2.Guide(kind=guide_pb2.GUIDE_KIND_REGEX, text="[a-z]+")
PROMPT = TOKENIZER.encode("<|im_start|>assistant\n<think>\n")
LINES = TOKENIZER.encode("\n\n")


class Case:
    """One answer that thinks, before scripted workers."""

    def __init__(self, *sessions: ScriptedSession, behind: bool = True, budget: int = 0, **sampling: Any) -> None:
        self.heard = Heard()
        self.answer = Answer(
            "chat",
            Call("r-1", None),
            chat_pb2.ChatEvent(start=chat_pb2.StreamStart(id="a")),
            self.heard,
            TOKENIZER,
            began=0.0,
            want_token_ids=False,
            on_end=lambda answer, outcome: None,
        )
        settings = PipelineSettings(eos_token_ids=frozenset({END}))
        plan = ChoicePlan(
            PROMPT,
            sampling_pb2.SamplingParams(**{"max_tokens": 50, "temperature": 0.0, **sampling}),
            AnswerPipeline(TOKENIZER, settings, starts_in_reasoning=True),
            frozenset({END}),
            thinking=ThinkingBudget(
                budget, TOKENIZER.encode(END_OF_THOUGHT), frozenset({TOKENIZER.added_ids["</think>"]})
            )
            if budget
            else None,
            guide=LegGuide(GUIDE, frozenset({CLOSE}) if behind else frozenset()),
            behind_thought=LINES,
        )
        continuations = Continuations(ContinuationLimits(5.0, 8, 1 << 20), lambda seconds: None)
        self.answer.begin([plan], Workers(*sessions).choose, continuations, priority=0, cache_salt="", timeout_s=60.0)

    def text(self, *, reasoning: bool) -> str:
        kind = "reasoning_delta" if reasoning else "content_delta"
        return "".join(getattr(event, kind) for event in self.heard.seen if event.WhichOneof("event") == kind)


def ids(text: str) -> Sequence[int]:
    return TOKENIZER.encode(text)


async def test_the_guide_begins_behind_the_thought() -> None:
    worker = ScriptedSession()
    case = Case(worker, min_tokens=3)
    free = worker.submitted[1]
    assert free.fields["guide"] is None
    assert CLOSE in free.sampling.stop_token_ids
    assert (free.sampling.min_tokens, free.sampling.logit_bias[END]) == (0, -100.0)

    thought = [*ids("Hm."), CLOSE]
    worker.end(1, thought, reason=STOP, stop_token_id=CLOSE)
    bound = worker.submitted[2]
    begun = [*PROMPT, *thought, *LINES]
    assert bound.prompt == begun
    assert (bound.fields["guide"], bound.fields["guide_offset"]) == (GUIDE, len(begun))
    assert bound.fields["answer_offset"] == len(PROMPT)
    assert (CLOSE in bound.sampling.stop_token_ids, dict(bound.sampling.logit_bias)) == (False, {})

    worker.end(2, ids("abc"), reason=STOP)
    assert (case.text(reasoning=True), case.text(reasoning=False)) == ("Hm.", "abc")
    assert case.answer.ended


@pytest.mark.parametrize("seen", range(5))
async def test_a_worker_that_is_lost_anywhere(seen: int) -> None:
    first, second = ScriptedSession("a"), ScriptedSession("b")
    case = Case(first, second)
    thought = [*ids("Hm."), CLOSE]
    told = [*thought, *ids("abc")][:seen]
    before = told[: len(thought)]
    first.give(1, before)
    if seen > len(thought):
        first.finish(1, reason=STOP, stop_token_id=CLOSE)
        first.give(2, told[len(thought) :])
    first.lose(len(first.submitted))

    # Whoever goes on is told where the guide began, if it has.
    handle = 1
    leg = second.submitted[1]
    if CLOSE not in before:
        assert leg.fields["guide"] is None
        second.end(1, thought[len(before) :], reason=STOP, stop_token_id=CLOSE)
        handle, leg = 2, second.submitted[2]
    assert leg.fields["guide"] == GUIDE
    assert leg.fields["guide_offset"] == len(PROMPT) + len(thought) + len(LINES)
    done = leg.prompt[leg.fields["guide_offset"] :]
    second.end(handle, ids("abc")[len(done) :], reason=STOP)
    assert (case.text(reasoning=True), case.text(reasoning=False)) == ("Hm.", "abc")


async def test_a_thought_that_is_cut_is_followed_by_the_guide() -> None:
    worker = ScriptedSession()
    case = Case(worker, budget=2)
    assert worker.submitted[1].sampling.max_tokens == 3  # the last one shows whether the thought would have ended
    worker.end(1, ids("a b c")[:3])
    bound = worker.submitted[2]
    assert bound.fields["guide_offset"] == len(bound.prompt)
    assert bound.prompt[-1 - len(ids("\n\n")) :][0] == CLOSE
    worker.end(2, ids("abc"), reason=STOP)
    assert case.text(reasoning=False) == "abc"


async def test_a_guide_without_a_thought_begins_at_once() -> None:
    worker = ScriptedSession()
    Case(worker, behind=False)
    assert worker.submitted[1].fields["guide"] == GUIDE
    assert worker.submitted[1].fields["guide_offset"] is None
    assert not worker.submitted[1].sampling.stop_token_ids


async def test_a_next_worker_that_takes_no_form_from_its_middle_is_no_fault_of_the_callers() -> None:
    first, second = ScriptedSession("a"), ScriptedSession("b")
    case = Case(first, second, behind=False)
    first.give(1, ids("abc"))
    first.lose(1)
    second.fail(1, "INVALID_REQUEST")
    assert isinstance(case.heard.error, WorkerLost)
    assert case.heard.error.retry_after_s
    assert "cannot go on with the answer: told so; ask again" in case.heard.error.message


async def test_what_the_first_worker_refuses_is_the_callers_to_mend() -> None:
    worker = ScriptedSession()
    case = Case(worker, behind=False)
    worker.fail(1, "INVALID_REQUEST")
    assert isinstance(case.heard.error, InvalidRequest)
