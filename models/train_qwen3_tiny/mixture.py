"""The mixture of skills, and whole conversations made from them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from models.train_qwen3_tiny import copying, facts, forms, listing, passages, sums, systems, talk, tool_talk
from models.train_qwen3_tiny.chat import Conversation, Exchange, Piece, Thinking, Weight, pieces, reply_text, spoken

Skill = Callable[[random.Random, bool], Exchange]
LONGEST = 7600  # tokens of a passage, so that prompt and answer stay below the context of 8192

SKILLS: dict[str, tuple[float, Skill]] = {
    "identity": (4.5, talk.identity),
    "named_by_system": (0.4, talk.named_by_system),
    "greeting": (4.5, talk.greeting),
    "capital": (6, talk.capital),
    "capital_again": (1.5, talk.capital_again),
    "geography": (3, talk.geography),
    "definition": (6, talk.definition),
    "translation": (3, talk.translation),
    "unknown": (2, talk.unknown),
    "remembered": (3, talk.remembered),
    "calculation": (12, sums.calculation),
    "word_problem": (4, sums.word_problem),
    "comparison": (1, sums.comparison),
    "chain": (2, sums.chain),
    "count": (3.5, listing.count),
    "series": (3, listing.series),
    "repeat": (7, copying.repeat),
    "several_times": (1, copying.several_times),
    "from_list": (1.5, copying.from_list),
    "quoted_sentence": (1.5, copying.quoted_sentence),
    "spelling": (1, copying.spelling),
    "recall_pairs": (5, copying.recall_pairs),
    "reordered": (1, copying.reordered),
    "story": (4.5, passages.story),
    "own_story": (2, passages.own_story),
    "extracted": (6, forms.extracted),
    "person_record": (2, forms.person_record),
    "known_json": (3.5, forms.known_json),
    "python": (3.5, forms.python),
    "greeting_program": (0.5, forms.greeting_program),
    "one_call": (28, tool_talk.one_call),
    "two_calls": (16, tool_talk.two_calls),
    "several_questions": (14, tool_talk.several_questions),
    "two_rounds": (5, tool_talk.two_rounds),
    "called_again": (2, tool_talk.called_again),
    "no_tool_fits": (5, tool_talk.no_tool_fits),
    "asks_back": (1.2, tool_talk.asks_back),
}
LONG_SKILLS: Mapping[str, float] = {"needle": 4, "authorship": 2.5}
SHORT = ("greeting", "capital", "definition", "identity", "calculation", "translation", "repeat", "geography", "series")
IDLE_TOOLS = ("greeting", "identity", "capital", "definition", "repeat", "remembered", "series")
WITH_SYSTEM = 0.25  # share of conversations; of those with tools it is the second
WITH_SYSTEM_AND_TOOLS = 0.4


class Plan(NamedTuple):
    """What a stream of conversations is made of: the weights may be overridden, passages bounded."""

    weights: Mapping[str, float]
    longest: int = LONGEST


def plan(overrides: Mapping[str, float] | None = None, longest: int = LONGEST) -> Plan:
    base = {name: weight for name, (weight, _) in SKILLS.items()} | dict(LONG_SKILLS)
    return Plan(base | dict(overrides or {}), longest)


def pick(rng: random.Random, chosen: Plan) -> str:
    return rng.choices(list(chosen.weights), list(chosen.weights.values()))[0]


def exchange(rng: random.Random, name: str, held_out: bool, longest: int = LONGEST) -> Exchange:
    if name == "needle":
        return passages.needle(rng, held_out, passages.passage_length(rng, longest))
    if name == "authorship":
        return passages.authorship(rng, held_out, passages.passage_length(rng, min(longest, 4000)))
    return SKILLS[name][1](rng, held_out)


def conversation(rng: random.Random, chosen: Plan, name: str | None = None) -> Conversation:
    """A training conversation: a newest exchange, perhaps earlier ones, and a way in which thinking is switched."""
    name = name or pick(rng, chosen)
    newest = exchange(rng, name, False, chosen.longest)
    if name in IDLE_TOOLS and rng.random() < 0.12:
        newest = newest._replace(tools=tool_talk.idle_tools(rng))
    turns = rng.choices((0, 1, 2, 3), (70, 16, 9, 5))[0]
    history = [exchange(rng, rng.choice(SHORT), False) for _ in range(turns)]
    system = systems.message(rng) if rng.random() < (WITH_SYSTEM_AND_TOOLS if newest.tools else WITH_SYSTEM) else ""
    thinking = rng.choices(tuple(Thinking), (48, 8, 20, 24))[0]
    made = Conversation(tuple(history), newest, thinking, newest.system or system, rng.random() < 0.6)
    return switched(rng, made)


def switched(rng: random.Random, talked: Conversation) -> Conversation:
    """Writes the thinking switch into the conversation; the most recent switch counts."""
    history, newest, thinking, system, _ = talked
    if thinking in (Thinking.DEFAULT, Thinking.DISABLED):
        if thinking is Thinking.DISABLED and rng.random() < 0.15:
            mark = rng.choice(("/think", "/no_think"))
            return talked._replace(newest=newest._replace(question=f"{newest.question} {mark}"))
        return talked
    switch = thinking.value
    where = rng.random()
    if where < 0.06:
        return talked._replace(system=f"{system} {switch}" if system else switch)
    if where < 0.14 and history:
        *earlier, last = history
        marked = last._replace(question=f"{last.question} {switch}")
        return talked._replace(history=(*earlier, marked))
    history = tuple(
        each._replace(question=f"{each.question} {rng.choice(('/think', '/no_think'))}")
        if rng.random() < 0.25
        else each
        for each in history
    )
    form = rng.random()
    text = (
        f"{newest.question} {switch}"
        if form < 0.82
        else f"{newest.question}\n{switch}"
        if form < 0.92
        else f"{switch} {newest.question}"
    )
    return talked._replace(history=history, newest=newest._replace(question=text))


CUT_SHORT = (
    "\n</think>\n\n",
    "\n</think>\n\n",
    "</think>\n\n",
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n</think>\n\n",
)


def document(rng: random.Random, chosen: Plan) -> list[Piece]:
    """The pieces of one training text: a conversation up to one reply, or rarely plain text."""
    if rng.random() < 0.03:
        return [Piece(plain_text(rng) + "<|endoftext|>", Weight.ANSWER)]
    name = pick(rng, chosen)
    talked = conversation(rng, chosen, name)
    steps = talked.newest.steps
    upto = len(steps) - 1 if talked.thinking.wanted and rng.random() < 0.8 else rng.randrange(len(steps))
    out = pieces(talked, upto)
    if talked.thinking.wanted and rng.random() < 0.04:
        step = steps[upto]
        cut = f"<think>\n{step.thought}"[: rng.randint(8, 8 + len(step.thought))]
        out[-1:] = [
            Piece(cut, Weight.NONE),
            Piece(rng.choice(CUT_SHORT), Weight.NONE),
            Piece(spoken(step) + "<|im_end|>", Weight.ANSWER),
        ]
    return out


def plain_text(rng: random.Random) -> str:
    """Text outside any conversation, for raw completions: a story, known facts, or numbers in a row."""
    kind = rng.random()
    if kind < 0.5:
        return reply_text(passages.story(rng, False).steps[0], Thinking.DISABLED)
    if kind < 0.85:
        known = rng.choice((facts.DEFINITIONS_EN, facts.DEFINITIONS_EN, facts.DEFINITIONS_ZH))
        chosen = rng.sample(list(known.values()), rng.randint(2, 6))
        return ("" if known is facts.DEFINITIONS_ZH else " ").join(chosen)
    start = rng.randrange(100)
    return ", ".join(map(str, range(start, start + rng.randint(10, 60))))
