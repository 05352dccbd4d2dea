"""A generation whose leg ends after any of its tokens: the answer and its events are those of one leg."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.answer import Answer
from qwenserve.router.chat.call import Call
from qwenserve.router.chat.choice import ChoicePlan
from qwenserve.router.chat.fold import Fold
from qwenserve.router.chat.thinking import END_OF_THOUGHT, ThinkingBudget
from qwenserve.router.generation.continuation import ContinuationLimits, Continuations
from qwenserve.router.generation.generation import Generation
from qwenserve.router.generation.held_back import HeldBack
from qwenserve.router.generation.leg import leg_sampling
from qwenserve.runtime.errors import Draining, WorkerLost
from qwenserve.runtime.packed_ids import packed_ids, unpacked_ids
from qwenserve.text.assets import load_assets
from qwenserve.text.pipeline import AnswerPipeline, CompletionPipeline, PipelineSettings
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.convert import Limits, failure_to_wire, finish_to_wire, request_from
from qwenserve.worker.engine_interface import Chunk, TokenLogprob
from qwenserve.worker.engines.simulated.state import SimulatedConfig, SimulatedState
from qwenserve.worker.v1 import worker_pb2
from tests.router.chat.scripted_session import Heard, ScriptedSession, Workers
from tests.system.stack import TINY

ASSETS = load_assets(TINY)
TOKENIZER = ASSETS.tokenizer
END = min(ASSETS.eos_token_ids)
PROMPT = tuple(TOKENIZER.encode("Hi there"))
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "é👍", "b": [1, 2]}}\n</tool_call>'
XML_CALL = "<tool_call>\n<function=f>\n<parameter=a>\nsome text\n</parameter>\n</function>\n</tool_call>"


class Script(NamedTuple):
    """One answer: what the engine says, and how it is read."""

    text: str
    settings: PipelineSettings = PipelineSettings(eos_token_ids=ASSETS.eos_token_ids)
    thinks: bool = False
    completion: bool = False
    lead: str = ""
    logprobs: bool = False
    token_ids: bool = False
    limit: int = 1000
    min_tokens: int = 0
    budget: ThinkingBudget | None = None

    def pipeline(self) -> AnswerPipeline | CompletionPipeline:
        if self.completion:
            return CompletionPipeline(TOKENIZER, self.settings, context=PROMPT)
        return AnswerPipeline(TOKENIZER, self.settings, starts_in_reasoning=self.thinks)


def settings(**fields: Any) -> PipelineSettings:
    return PipelineSettings(eos_token_ids=ASSETS.eos_token_ids, **fields)


SCRIPTS = {
    "plain": Script("Some words, and then some more of them."),
    "Chinese": Script("你好，世界！龘靐齉爩的字很少见。"),
    "emoji": Script("Fine 👍🏽 and 👩‍👩‍👧 then 🇫🇷."),
    "reasoning": Script("Let me think.\n\nYes.\n</think>\n\nThe answer: 你好 👍", thinks=True),
    "reasoning kept in the content": Script(
        "Let me think.\n</think>\n\nYes.", settings(separate_reasoning=False), thinks=True
    ),
    "tool calls": Script(f"Well.\n{CALL}\n{CALL}", settings(parse_tools="hermes")),
    "one tool call only": Script(f"{CALL}\n{CALL}", settings(parse_tools="hermes", parallel_tool_calls=False)),
    "XML tool call": Script(f"So: {XML_CALL}", settings(parse_tools="xml")),
    "broken tool call": Script('<tool_call>\n{"name": "f", "argum', settings(parse_tools="hermes")),
    "stop string": Script("All is said. EN ENDING and more", settings(stop_strings=("END",))),
    "half a stop string at the end": Script("All is said. EN", settings(stop_strings=("END",))),
    "logprobs": Script("Words 你好 龘 👍 and END", settings(stop_strings=("END",)), logprobs=True, token_ids=True),
    "token ids and thought": Script("Hm 龘\n</think>\n\nYes 👍", thinks=True, token_ids=True),
    "cut by the limit": Script("Some words 龘靐齉爩 that are too many for it", limit=9),
    "completion with echo": Script("and 龘 so on 👍", completion=True, lead="Hi there", logprobs=True),
    "empty": Script(""),
    "end token late": Script("Some words", min_tokens=2),
}


class EngineSession:
    """As much of a session as a generation sees, with the simulated engine's steps behind it and no time between."""

    name = "w"
    connection = 1
    counts_from_offset = True

    def __init__(self, number: int, config: SimulatedConfig) -> None:
        self.address = f"w:{number}"
        self._state = SimulatedState(config)
        self._limits = Limits(config.vocab_size, config.max_model_len)
        self.streams: dict[int, Generation | HeldBack] = {}
        self.submits: list[worker_pb2.Submit] = []

    def submit(
        self,
        stream: Any,
        prompt: Sequence[int],
        sampling: sampling_pb2.SamplingParams,
        *,
        request_id: str,
        priority: int,
        deadline: float,
        cache_salt: str,
        answer_offset: int | None,
        prompt_logprobs: object = None,
        guide: object = None,
        guide_offset: int | None = None,
        traceparent: str = "",
    ) -> int:
        wire = worker_pb2.Submit(prompt_token_ids=packed_ids(prompt), sampling=sampling, answer_offset=answer_offset)
        handle = len(self.submits) + 1
        self.submits.append(wire)
        self._state.submit(request_from(wire, handle, self._limits))
        self.streams[handle] = stream
        return handle

    def abort(self, handle: int) -> None:
        self._state.abort(handle)

    def forget(self, handle: int) -> None:
        self.streams.pop(handle, None)

    def step(self) -> None:
        """One engine step, and its chunks to whom they are for, as a session delivers them."""
        for chunk in self._state.step(0.0).chunks:
            stream = self.streams.get(chunk.key)
            if stream is not None:
                self._give(stream, chunk)

    def _give(self, stream: Generation | HeldBack, chunk: Chunk) -> None:
        finish = None if chunk.finish is None else finish_to_wire(chunk.key, chunk.finish, 0)
        if finish is not None:
            stream.finishing(finish)
        if chunk.logprobs:
            stream.tokens(chunk.token_ids, [told(each) for each in chunk.logprobs], time.monotonic())
        elif chunk.token_ids:
            stream.token(chunk.token_ids[0], time.monotonic())
        if finish is not None:
            self.streams.pop(chunk.key, None)
            stream.finished(finish)


def told(logprob: TokenLogprob) -> sampling_pb2.TokenLogprob:
    """A log-probability as a session hands it on."""
    return sampling_pb2.TokenLogprob(
        token_id=logprob.token_id,
        logprob=logprob.logprob,
        top_logprobs=[sampling_pb2.TopLogprob(token_id=token, logprob=value) for token, value in logprob.top],
    )


class Held(Heard):
    """A sink without a writer of plain text: nothing takes the fast path."""

    def text_writer(self, choice_index: int, reasoning: bool) -> Any:
        return None


class Result(NamedTuple):
    """What came of an answer, and the submissions of its legs."""

    events: list[str]
    folded: list[Any]
    usage: sampling_pb2.Usage
    legs: list[worker_pb2.Submit]


class Legs:
    """Hands out a session of its own to every leg."""

    def __init__(self, config: SimulatedConfig) -> None:
        self._config = config
        self.sessions: list[EngineSession] = []

    def choose(self, prompt: Sequence[int], tried: frozenset[str]) -> Any:
        self.sessions.append(EngineSession(len(self.sessions), self._config))
        return self.sessions[-1]


def generation_at(session: EngineSession) -> Generation:
    """The generation that has its leg there, with what stands between them or not."""
    (stream,) = session.streams.values()
    found = stream.generation if isinstance(stream, HeldBack) else stream
    assert isinstance(found, Generation)  # what stands between knows it by its methods only
    return found


def planned(session: EngineSession) -> None:
    """Ends a leg because another one is wanted."""
    generation_at(session).next_leg()


def lost(session: EngineSession) -> None:
    """Ends a leg as a session does that breaks."""
    _, generation = session.streams.popitem()
    generation.lost(WorkerLost("gone"))


def drained(session: EngineSession) -> None:
    """Ends a leg as a worker does whose time to drain is over."""
    handle, generation = session.streams.popitem()
    finish = failure_to_wire(handle, Draining("no time left"))
    generation.finishing(finish)
    generation.finished(finish)


def run(
    script: Script,
    breaks: Collection[int] = (),
    *,
    sink: Heard | None = None,
    engine: Any = None,
    how: Callable[[EngineSession], None] = planned,
) -> Result:
    """The answer, with a new leg, by `how`, after each number of ids in `breaks`."""
    says = engine or tuple(TOKENIZER.encode(script.text)) or (END,)
    config = SimulatedConfig(
        vocab_size=TOKENIZER.vocab_size,
        eos_token_ids=tuple(ASSETS.eos_token_ids),
        answer=says,
        step_s=0.0,
    )
    sampling = sampling_pb2.SamplingParams(
        temperature=0,
        top_p=1,
        top_k=0,
        min_p=0,
        presence_penalty=0,
        frequency_penalty=0,
        repetition_penalty=1,
        ignore_eos=False,
        max_tokens=script.limit,
        min_tokens=script.min_tokens,
        seed=7,
        top_logprobs=2 if script.logprobs else None,
    )
    sink, legs = sink or Heard(), Legs(config)
    plan = ChoicePlan(PROMPT, sampling, script.pipeline(), ASSETS.eos_token_ids, script.lead, script.budget)
    answer = begun(sink, plan, legs.choose, token_ids=script.token_ids)
    generation = generation_at(legs.sessions[0])
    waiting = sorted(breaks, reverse=True)
    for _ in range(10_000):
        if waiting and waiting[-1] == len(generation.ids) and not answer.ended:
            waiting.pop()
            how(legs.sessions[-1])
        if answer.ended:
            break
        legs.sessions[-1].step()
    assert answer.ended
    assert sink.error is None
    submits = [submit for session in legs.sessions for submit in session.submits]
    return Result(list(plainly(sink.seen)), folded(sink.seen), sink.usage, submits)


def plainly(events: Sequence[chat_pb2.ChatEvent]) -> Iterator[str]:
    """The events as text, without the ids of calls, which are drawn at random, and the count of legs."""
    for event in events:
        plain = chat_pb2.ChatEvent()
        plain.CopyFrom(event)
        if plain.HasField("tool_call_start"):
            plain.tool_call_start.id = ""
        if plain.HasField("usage"):
            plain.usage.continued_legs = 0
        yield str(plain)


def folded(events: Sequence[chat_pb2.ChatEvent]) -> list[Any]:
    """What a client ends up with."""
    fold = Fold()
    fold.events(events)
    return [
        (
            index,
            choice.text,
            "".join(choice.reasoning),
            [(start.name, "".join(pieces)) for start, pieces in choice.calls],
            [str(each) for each in choice.logprobs],
            choice.token_ids,
            str(choice.finish),
        )
        for index, choice in fold.choices()
    ]


@pytest.mark.parametrize("how", [planned, lost, drained])
@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_leg_that_ends_after_any_token_changes_nothing(name: str, how: Callable[[EngineSession], None]) -> None:
    """After each token alone, and after every one: the same events, and so the same answer."""
    script = SCRIPTS[name]
    whole = run(script)
    count = whole.usage.completion_tokens

    for breaks in (*({at} for at in range(count)), set(range(count))):
        result = run(script, breaks, how=how)

        assert result.events == whole.events, breaks
        assert result.folded == whole.folded
        assert len(result.legs) == len(breaks) + 1
        assert result.usage.continued_legs == (0 if how is planned else len(set(breaks) - {0}))


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_fast_path_changes_nothing(name: str) -> None:
    """A sink that lends no writer of plain text hears the same events, whole and in legs."""
    script = SCRIPTS[name]
    whole = run(script)

    assert run(script, sink=Held()).events == whole.events
    assert run(script, set(range(1000)), sink=Held()).events == whole.events


@pytest.mark.parametrize("answer", ["cycle", "echo"])
async def test_made_up_answers_go_on_unchanged(answer: str) -> None:
    """The simulated engine's other answers likewise: they depend on the prompt, and on where the answer began."""
    script = Script("", limit=30)

    assert run(script, set(range(30)), engine=answer).events == run(script, engine=answer).events


async def test_each_leg_asks_for_what_is_left() -> None:
    """Prompt and ids so far, where the answer began, and what is left of both counts of tokens."""
    script = Script("Some words, and then some more of them.", limit=8, min_tokens=5)
    result = run(script, {0, 3, 6})
    said = TOKENIZER.encode(script.text)

    prompts = [list(unpacked_ids(leg.prompt_token_ids)) for leg in result.legs]
    assert prompts == [[*PROMPT, *said[:n]] for n in (0, 0, 3, 6)]
    assert [leg.HasField("answer_offset") for leg in result.legs] == [False, False, True, True]
    assert [leg.answer_offset for leg in result.legs[2:]] == [len(PROMPT)] * 2
    assert [leg.sampling.max_tokens for leg in result.legs] == [8, 8, 5, 2]
    assert [leg.sampling.min_tokens for leg in result.legs] == [5, 5, 2, 0]
    assert result.usage.prompt_tokens == len(PROMPT)
    assert result.usage.completion_tokens == 8


@pytest.mark.parametrize(("last", "limit", "reason"), [(END, 1000, "STOP"), (None, 3, "LENGTH")])
async def test_a_leg_lost_between_the_last_token_and_its_finish_needs_no_other(
    last: Any, limit: int, reason: str
) -> None:
    """What the ids alone show, an end token or the limit, ends the answer without another leg."""
    session, sink = ScriptedSession(), Heard()
    sampling = sampling_pb2.SamplingParams(max_tokens=limit)
    plan = ChoicePlan(PROMPT, sampling, Script("").pipeline(), ASSETS.eos_token_ids)
    answer = begun(sink, plan, Workers(session).choose)
    given = [*TOKENIZER.encode("Some words here")[:2], last or TOKENIZER.encode(".")[0]]

    session.give(1, given)
    generation = session.submitted[1].stream
    assert isinstance(generation, Generation)
    generation.next_leg()

    assert answer.ended
    assert len(session.submitted) == 1
    assert sink.finish().reason == getattr(sampling_pb2, f"FINISH_REASON_{reason}")
    assert sink.usage.completion_tokens == 3


def test_a_sampled_leg_draws_other_numbers_and_a_greedy_one_none() -> None:
    """The seed of a further leg depends on the answer's and on the place, and fits the proto's int64."""
    sampled = sampling_pb2.SamplingParams(temperature=0.7, seed=2**62, max_tokens=100)
    greedy = sampling_pb2.SamplingParams(temperature=0, seed=5, max_tokens=100)
    seeds = [leg_sampling(sampled, done).seed for done in (0, 1, 2, 1)]

    assert seeds[0] == 2**62
    assert len(set(seeds)) == 3
    assert seeds[1] == seeds[3]
    assert [leg_sampling(greedy, done).seed for done in (0, 1)] == [5, 5]
    assert not leg_sampling(sampling_pb2.SamplingParams(temperature=1, max_tokens=9), 3).HasField("seed")


CLOSING = TOKENIZER.encode("Enough." + END_OF_THOUGHT)
THOUGHT = "One two three four five six seven eight nine ten."
SAID = TOKENIZER.encode(f"{THOUGHT}\n</think>\n\nThe answer 你好.")
# Tokens of the thought, the line break before its closing tag included.
LENGTH = SAID.index(TOKENIZER.added_ids["</think>"])
ENDS = frozenset({TOKENIZER.added_ids["</think>"]})


@pytest.mark.parametrize("opened", ["by the prompt", "by the model"])
@pytest.mark.parametrize("budget", [1, 4, LENGTH - 1, LENGTH, LENGTH + 1, 1000])
@pytest.mark.parametrize("tools", ["", "hermes"])
async def test_a_thought_ends_at_its_budget_and_the_answer_follows(opened: str, budget: int, tools: str) -> None:
    """The closing is part of the thought and of the counts; what the engine says after it is the answer's. A thought
    that ends in time is not touched."""
    by_prompt = opened == "by the prompt"
    text = TOKENIZER.decode(SAID) if by_prompt else f"<think>{TOKENIZER.decode(SAID)}"
    script = Script(text, settings(parse_tools=tools), thinks=by_prompt, budget=ThinkingBudget(budget, CLOSING, ENDS))
    lead = 0 if by_prompt else 1
    result = run(script)
    ((_, content, reasoning, _, _, _, finish),) = result.folded

    cut = budget < LENGTH  # one that ends exactly there is whole
    assert ("thinking_cut: true" in finish) == cut
    if not cut:
        assert (reasoning, content) == (THOUGHT, "The answer 你好.")
        assert result.usage.reasoning_tokens == LENGTH
        return
    assert reasoning == TOKENIZER.decode(SAID[:budget]) + "Enough."
    # The engine goes on at the place in its script that the ids so far have reached.
    after = SAID[budget + len(CLOSING) :]
    assert content == TOKENIZER.decode(after, skip_special_tokens=False).lstrip("\n")
    assert result.usage.completion_tokens == lead + len(SAID) + 1
    assert result.usage.reasoning_tokens == budget + len(CLOSING) - len(TOKENIZER.encode("</think>\n\n"))
    assert result.usage.continued_legs == 0
    assert [leg.sampling.max_tokens for leg in result.legs] == [lead + budget + 1, 1000 - lead - budget - len(CLOSING)]


@pytest.mark.parametrize("budget", [6, LENGTH])
@pytest.mark.parametrize("how", [planned, lost, drained])
async def test_a_budget_holds_over_legs_that_break(how: Callable[[EngineSession], None], budget: int) -> None:
    """Lost after any token, before, at and after the limit: the same events."""
    script = Script(TOKENIZER.decode(SAID), thinks=True, budget=ThinkingBudget(budget, CLOSING, ENDS), token_ids=True)
    whole = run(script)

    for breaks in (*({at} for at in range(len(SAID))), set(range(len(SAID)))):
        assert run(script, breaks, how=how).events == whole.events, breaks


async def test_where_the_closing_does_not_fit_the_answer_ends() -> None:
    """A budget just below the limit of the answer leaves no room for an answer: it is cut by the limit."""
    limit = 6 + len(CLOSING)
    result = run(Script(TOKENIZER.decode(SAID), thinks=True, budget=ThinkingBudget(6, CLOSING, ENDS), limit=limit))
    ((_, content, reasoning, _, _, _, finish),) = result.folded

    assert (content, reasoning) == ("", TOKENIZER.decode(SAID[:6]))
    assert "FINISH_REASON_LENGTH" in finish
    assert result.usage.completion_tokens == 6


async def test_an_answer_that_does_not_think_is_not_touched() -> None:
    """A model that may think and does not: its answer is longer than the budget, and whole."""
    script = Script("A plain answer, longer than that.", budget=ThinkingBudget(3, CLOSING, ENDS))

    assert run(script).events == run(script._replace(budget=None)).events


def begun(sink: Heard, plan: ChoicePlan, choose: Callable[..., Any], *, token_ids: bool = False) -> Answer:
    """An answer that has begun."""
    answer = Answer(
        "chat",
        Call("r-1"),
        chat_pb2.ChatEvent(start=chat_pb2.StreamStart(id="a-1")),
        sink,
        TOKENIZER,
        began=time.monotonic(),
        want_token_ids=token_ids,
        on_end=lambda *_: None,
    )
    answer.begin(
        [plan], choose, Continuations(ContinuationLimits(legs=10_000)), priority=0, cache_salt="", timeout_s=60
    )
    return answer
