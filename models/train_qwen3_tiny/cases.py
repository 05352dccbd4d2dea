"""The held-out evaluation: phrasings, names, towns, tools and sums that training never shows, and how to judge replies."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from models.train_qwen3_tiny import facts, forms, listing, passages, plots, sums, systems, talk
from models.train_qwen3_tiny.chat import Call, Conversation, Exchange, Step, Thinking, prompt_and_reply, spoken
from models.train_qwen3_tiny.mixture import exchange, switched
from models.train_qwen3_tiny.usual import BOSTON_POSTCODE, BOSTON_WEATHER, BOTH, POSTCODE, WEATHER
from models.train_qwen3_tiny.wording import core

SEED = 61129112


class Judge(Enum):
    """How a reply counts as right."""

    CONTAINS = "the answer contains all expected strings"
    EQUALS = "the answer is the expected string"
    CALLS = "the calls are the expected ones, arguments equal"
    JSON = "the answer parses as JSON"
    JSON_EQUALS = "the answer parses as the expected JSON value"
    STORY = "the answer is a whole story about the hero"
    SWITCH = "thoughts are there exactly when they are wanted"


class Case(NamedTuple):
    """One prompt with what to expect of the greedy reply."""

    metric: str
    question: str
    prompt: str
    thinking: Thinking
    judge: Judge
    expected: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    new_tokens: int = 160


class Reply(NamedTuple):
    thought: str
    answer: str
    closed: bool


def parse_reply(text: str, thinking: Thinking) -> Reply:
    if thinking is Thinking.DISABLED:
        return Reply("", text.strip(), "<think>" not in text)
    thought, mark, answer = text.partition("</think>")
    return Reply(thought.removeprefix("<think>").strip(), answer.strip(), bool(mark) and thought.startswith("<think>"))


def parse_calls(answer: str) -> list[tuple[str, Any]] | None:
    """The calls of an answer that holds nothing else, or None."""
    found: list[tuple[str, Any]] = []
    for part in answer.split("<tool_call>")[1:]:
        body, closed, rest = part.partition("</tool_call>")
        try:
            value = json.loads(body)
        except ValueError:
            return None
        if not closed or rest.strip() or not isinstance(value, dict) or set(value) != {"name", "arguments"}:
            return None
        found.append((value["name"], value["arguments"]))
    return found if found and not answer.split("<tool_call>")[0].strip() else None


def right(case: Case, text: str) -> bool:
    reply = parse_reply(text, case.thinking)
    if case.judge is Judge.SWITCH:
        return reply.closed and bool(reply.thought) == case.thinking.wanted
    if case.judge is Judge.CALLS:
        wanted = [(call.name, dict(call.arguments)) for call in case.calls]
        return reply.closed and parse_calls(reply.answer) == wanted
    if case.judge in (Judge.JSON, Judge.JSON_EQUALS):
        try:
            value = json.loads(reply.answer)
        except ValueError:
            return False
        return case.judge is Judge.JSON or bool(value == json.loads(case.expected[0]))
    if case.judge is Judge.STORY:
        return reply.closed and _is_story(case.expected, reply.answer)
    if case.judge is Judge.EQUALS:
        return reply.answer == case.expected[0]
    return reply.closed and all(part in reply.answer for part in case.expected)


def _is_story(named: Sequence[str], answer: str) -> bool:
    """Whether the answer tells plots to their ends, with its hero and all chapters."""
    ends = tuple(plot.rsplit("{0}", 1)[-1][-12:] for plot in (*plots.PLOTS_EN, *plots.PLOTS_ZH))
    return answer.endswith(ends) and all(part in answer for part in named)


def _case(
    rng: random.Random, metric: str, made: Exchange, thinking: Thinking, upto: int, judge: Judge, new_tokens: int
) -> Case:
    talked = switched(rng, Conversation((), made, thinking, made.system, rng.random() < 0.5))
    prompt, _ = prompt_and_reply(talked, upto)
    step = made.steps[upto]
    expected = (spoken(step),) if judge in (Judge.EQUALS, Judge.JSON, Judge.JSON_EQUALS) else made.must
    if judge is Judge.STORY:
        hero = step.thought.split(" about ")[-1].split("关于")[-1].removesuffix(".").removesuffix("的故事。")
        chapters = [line for line in step.content.splitlines() if line.startswith("Chapter ")]
        expected = (hero.removeprefix("a "), *chapters)
    return Case(metric, talked.newest.question, prompt, thinking, judge, expected, step.calls, new_tokens)


ANY = tuple(Thinking)
CALL_TOKENS = 400  # the thought repeats the calls, so that two of them with many arguments are long
THINKS = (Thinking.DEFAULT, Thinking.DEFAULT, Thinking.ASKED)


class Row(NamedTuple):
    """One line of the model card's table."""

    metric: str
    make: Callable[[random.Random], Exchange]
    amount: int
    judge: Judge
    upto: int = -1
    modes: tuple[Thinking, ...] = ANY
    new_tokens: int = 160
    same_as: str = ""  # the metric whose cases are judged here in another way


def _skill(name: str) -> Callable[[random.Random], Exchange]:
    return lambda rng: exchange(rng, name, True)


def _until(
    make: Callable[[random.Random], Exchange], wanted: Callable[[Exchange], bool]
) -> Callable[[random.Random], Exchange]:
    def again(rng: random.Random) -> Exchange:
        while True:
            made = make(rng)
            if wanted(made):
                return made

    return again


def _needle(tokens: int) -> Callable[[random.Random], Exchange]:
    return lambda rng: passages.needle(rng, True, tokens)


def _counting(rng: random.Random) -> Exchange:
    first, last = rng.choice(((1, 50), (1, 100), (7, 60), (1, 150), (30, 90), (1, 200)))
    question = rng.choice(listing.COUNT[-1:]).format(first, last)
    return talk.said(question, "", ", ".join(map(str, range(first, last + 1))))


def _two(made: Exchange) -> bool:
    return len(made.steps[0].calls) == 2


def _new_wording(rng: random.Random) -> Exchange:
    """A question none of whose wordings training has shown, decorated or not."""
    kind = rng.randrange(6)
    if kind == 0:
        return talk.said(core(rng, talk.WHO, new=True), "", talk.I_AM)
    if kind == 1:
        return talk.said(core(rng, talk.WHO_ZH, new=True), "", talk.I_AM_ZH)
    if kind == 2:
        country, city = rng.choice(list(facts.CAPITALS_EN.items()))
        return talk.said(core(rng, talk.CAPITAL, new=True).format(country), "", city)
    if kind == 3:
        country, city = rng.choice(list(facts.CAPITALS_ZH.items()))
        return talk.said(core(rng, talk.CAPITAL_ZH, new=True).format(country), "", city)
    if kind == 4:
        term, meaning = rng.choice(list(facts.DEFINITIONS_EN.items()))
        return talk.said(core(rng, talk.DEFINE, new=True).format(term), "", meaning)
    a, b, sign = sums.pick_sum(rng, True)
    value, _ = sums.worked(a, b, sign)
    return talk.said(core(rng, sums.ASK, new=True).format(f"{a} {sign} {b}"), "", f"= {value}")


def _under_system(rng: random.Random) -> Exchange:
    return exchange(rng, "one_call", True)._replace(system=systems.message(rng, True))


def _json_asked(rng: random.Random) -> Exchange:
    return rng.choice((forms.extracted, forms.person_record, forms.known_json))(rng, True)


ROWS: tuple[Row, ...] = (
    Row("identity", _skill("identity"), 40, Judge.CONTAINS),
    Row("greetings and small talk", _skill("greeting"), 40, Judge.CONTAINS),
    Row("capitals", _skill("capital"), 100, Judge.CONTAINS),
    Row("one call: name and arguments exact", _skill("one_call"), 300, Judge.CALLS, 0, new_tokens=CALL_TOKENS),
    Row("one call under a new system message", _under_system, 40, Judge.CALLS, 0, new_tokens=CALL_TOKENS),
    Row("two calls: names and arguments exact", _until(_skill("two_calls"), _two), 100, Judge.CALLS, 0, new_tokens=CALL_TOKENS),
    Row("second call from the first result", _skill("two_rounds"), 30, Judge.CALLS, 1, new_tokens=CALL_TOKENS),
    Row("answer uses the tool results", _skill("one_call"), 60, Judge.CONTAINS),
    Row("answer uses both tool results", _skill("two_calls"), 40, Judge.CONTAINS, new_tokens=CALL_TOKENS),
    Row("says that no tool fits", _skill("no_tool_fits"), 40, Judge.CONTAINS),
    Row("addition and subtraction below 100, thinking", sums.calculation_held_out, 100, Judge.CONTAINS, modes=THINKS),
    Row("addition and subtraction below 100, not thinking", sums.calculation_held_out, 60, Judge.CONTAINS,
        modes=(Thinking.REFUSED, Thinking.DISABLED)),
    Row("word problems, thinking", _skill("word_problem"), 30, Judge.CONTAINS, modes=THINKS),
    Row("needle at 500 tokens", _needle(500), 20, Judge.CONTAINS),
    Row("needle at 2,000 tokens", _needle(2000), 20, Judge.CONTAINS),
    Row("needle at 6,000 tokens", _needle(6000), 10, Judge.CONTAINS),
    Row("author of the story above", _skill("authorship"), 20, Judge.CONTAINS),
    Row("author of its own story", _skill("own_story"), 20, Judge.CONTAINS),
    Row("stories told whole", _skill("story"), 20, Judge.STORY, new_tokens=900),
    Row("valid JSON when asked", _json_asked, 60, Judge.JSON),
    Row("JSON exactly as asked", _json_asked, 60, Judge.JSON_EQUALS, same_as="valid JSON when asked"),
    Row("copying text exactly", _skill("repeat"), 60, Judge.EQUALS),
    Row("looking up one of many pairs", _skill("recall_pairs"), 40, Judge.CONTAINS),
    Row("a name told earlier", _skill("remembered"), 40, Judge.CONTAINS),
    Row("questions in wholly new wordings", _new_wording, 60, Judge.CONTAINS, modes=THINKS),
    Row("definitions", _skill("definition"), 40, Judge.CONTAINS),
    Row("Python", _skill("python"), 20, Judge.CONTAINS),
    Row("counting, up to 200 numbers", _counting, 8, Judge.EQUALS, modes=(Thinking.DISABLED,), new_tokens=1000),
)  # fmt: skip
SWITCH_METRIC = "thinking switch obeyed"


def held_out_cases(seed: int = SEED) -> list[Case]:
    """All cases; the switch is judged on a mixture of skills in all four modes."""
    out: list[Case] = []
    for row in ROWS:
        rng = random.Random(f"{seed} {row.same_as or row.metric}")
        for i in range(row.amount):
            made = row.make(rng)
            upto = row.upto % len(made.steps)
            out.append(_case(rng, row.metric, made, row.modes[i % len(row.modes)], upto, row.judge, row.new_tokens))
    rng = random.Random(f"{seed} switch")
    skills = (
        "identity",
        "greeting",
        "capital",
        "calculation",
        "one_call",
        "definition",
        "unknown",
        "python",
        "repeat",
        "known_json",
    )
    for i in range(80):
        made = exchange(rng, skills[i % len(skills)], True)
        out.append(_case(rng, SWITCH_METRIC, made, ANY[i // len(skills) % 4], 0, Judge.SWITCH, 160))
    return out + usual_cases()


def needle_cases(seed: int, lengths: Sequence[int], amount: int) -> list[Case]:
    """Needles in passages of about such lengths, in tokens."""
    out: list[Case] = []
    for tokens in lengths:
        rng = random.Random(f"{seed} needle {tokens}")
        row = Row(f"needle at {tokens:,} tokens", _needle(tokens), amount, Judge.CONTAINS)
        for i in range(amount):
            made = row.make(rng)
            mode = row.modes[i % len(row.modes)]
            out.append(_case(rng, row.metric, made, mode, row.upto % len(made.steps), row.judge, row.new_tokens))
    return out


USUAL_METRIC = "the usual examples"


def usual_cases() -> list[Case]:
    """The questions of the usual examples, word for word."""
    lambda_answer = "lambda a, b: a + b"
    plain: list[tuple[Exchange, tuple[Thinking, ...]]] = [
        (talk.said("What is the capital of France?", "", "Paris"), ANY),
        (talk.said("你好，你是谁？", "", talk.I_AM_ZH), ANY),
        (talk.said("Who are you?", "", talk.I_AM), ANY),
        (talk.said("Write a python lambda function to add two numbers", "", lambda_answer), ANY),
    ]
    weather = Exchange(
        "What's the weather like in Boston today?", (Step("", calls=(BOSTON_WEATHER,)),), tools=(WEATHER,)
    )
    both = Exchange(
        BOTH,
        (Step("The user wants both.", calls=(BOSTON_POSTCODE, BOSTON_WEATHER)), Step("", "")),
        (("02108", '{"temperature": 22, "unit": "celsius", "description": "sunny"}'),),
        (POSTCODE, WEATHER),
        must=("02108", "22", "sunny"),
    )
    rng = random.Random(SEED)
    out = [_case(rng, USUAL_METRIC, made, mode, 0, Judge.CONTAINS, 160) for made, modes in plain for mode in modes]
    out += [_case(rng, USUAL_METRIC, weather, mode, 0, Judge.CALLS, 160) for mode in ANY]
    out += [_case(rng, USUAL_METRIC, both, mode, 0, Judge.CALLS, 200) for mode in ANY]
    out += [_case(rng, USUAL_METRIC, both, mode, 1, Judge.CONTAINS, 160) for mode in ANY]
    return out


class Failure(NamedTuple):
    metric: str
    question: str
    expected: str
    reply: str


class Report(NamedTuple):
    """Right and total cases of each metric, in the table's order, and the cases that failed."""

    scores: Mapping[str, tuple[int, int]]
    failures: tuple[Failure, ...]


def report(cases: list[Case], replies: list[str]) -> Report:
    scores: dict[str, tuple[int, int]] = {}
    failures: list[Failure] = []
    for case, reply in zip(cases, replies, strict=True):
        good = right(case, reply)
        before = scores.get(case.metric, (0, 0))
        scores[case.metric] = (before[0] + good, before[1] + 1)
        if not good:
            failures.append(Failure(case.metric, case.question, _expected(case), reply))
    return Report(scores, tuple(failures))


def _expected(case: Case) -> str:
    if case.judge is Judge.SWITCH:
        return "a thought" if case.thinking.wanted else "no thought"
    if case.judge is Judge.CALLS:
        return spoken(Step("", calls=case.calls))
    return " / ".join(case.expected)
