"""Counting, series and lists: the long answers."""

from __future__ import annotations

import random

from models.train_qwen3_tiny import facts
from models.train_qwen3_tiny.chat import Exchange
from models.train_qwen3_tiny.talk import said
from models.train_qwen3_tiny.wording import phrase

COUNT = (
    "Count from {} to {}.|count from {} to {}|Please count from {} to {}.|List the numbers from {} to {}.|Count {} to {}.|"
    "Write the numbers {} to {}.|Can you count from {} to {}?|Give me all numbers from {} to {}.|"
    "Write out every number from {} to {}.|Count up from {} to {}, please.|Say the numbers from {} to {}."
).split("|")
COUNT_ZH = (
    "从{}数到{}。|从{}数到{}|请从{}数到{}。|列出从{}到{}的数字。|写出{}到{}的所有数字。|数一下从{}到{}的数。".split("|")
)
DOWN = "Count down from {} to {}.|Count backwards from {} to {}.|Please count down from {} to {}.|Count from {} down to {}.".split(
    "|"
)


def _joined(rng: random.Random, question: str, numbers: list[int]) -> tuple[str, str]:
    """The question, perhaps with a wish for the separator, and the numbers joined as wished."""
    form = rng.random()
    if form < 0.72:
        return question, ", ".join(map(str, numbers))
    if form < 0.86:
        return f"{question} One per line.", "\n".join(map(str, numbers))
    return f"{question} Separate them with spaces.", " ".join(map(str, numbers))


def count(rng: random.Random, held_out: bool) -> Exchange:
    form = rng.random()
    start = 1 if rng.random() < 0.6 else rng.randrange(300)
    length = rng.choice(
        (rng.randint(3, 20), rng.randint(3, 30), rng.randint(10, 60), rng.randint(20, 110), rng.randint(100, 220))
    )
    if rng.random() < 0.3:
        length = rng.choice((10, 20, 30, 50, 100, 100, 200, 200))
    last = start + length - 1
    if form < 0.2:
        numbers = list(range(start, last + 1))
        question = phrase(rng, COUNT_ZH, held_out).format(start, last)
        return said(
            question,
            f"用户想从{start}数到{last}。",
            "、".join(map(str, numbers)) if rng.random() < 0.3 else ", ".join(map(str, numbers)),
        )
    if form < 0.3:
        numbers = list(range(last, start - 1, -1))[:110]
        question, answer = _joined(rng, phrase(rng, DOWN, held_out).format(numbers[0], numbers[-1]), numbers)
        return said(question, f"The user wants me to count down from {numbers[0]} to {numbers[-1]}.", answer)
    if form < 0.42:
        step = rng.choice((2, 2, 3, 4, 5, 5, 10, 10, 100))
        first = rng.choice((0, step, step))
        numbers = [first + step * i for i in range(rng.randint(4, 30))]
        question, answer = _joined(rng, f"Count from {first} to {numbers[-1]} in steps of {step}.", numbers)
        return said(question, f"The user wants steps of {step}, from {first} to {numbers[-1]}.", answer)
    if form < 0.5:
        amount = rng.randint(3, 40)
        kind, first, step = rng.choice((("even", 2, 2), ("odd", 1, 2), ("whole", 1, 1)))
        question, answer = _joined(
            rng, f"List the first {amount} {kind} numbers.", [first + step * i for i in range(amount)]
        )
        return said(question, f"The first {amount} {kind} numbers start at {first}.", answer)
    question, answer = _joined(rng, phrase(rng, COUNT, held_out).format(start, last), list(range(start, last + 1)))
    return said(question, f"The user wants me to count from {start} to {last}.", answer)


SERIES = (
    "What are {}?|List {}.|Name {}.|Tell me {}.|Please list {}.|list {}|Can you name {}?|Write down {}.|Give me {}.|"
    "I want to see {}.|Which are {}?"
).split("|")
SERIES_ZH = "{}是什么？|列出{}。|说出{}。|请列出{}。|请说出{}。|告诉我{}。|写下{}。".split("|")
SOME = (
    "Name {} {}.|List {} {}.|Tell me {} {}.|Give me {} {}.|list {} {}|Can you name {} {}?|Please list {} {}.|Write down {} {}.|"
    "I need {} {}.|Give me the names of {} {}."
).split("|")
SOME_ZH = "说出{}种{}。|列出{}种{}。|请列出{}种{}。|告诉我{}种{}。|给我{}种{}。|请写出{}种{}。".split("|")
NUMBERS = "zero one two three four five six seven eight nine ten".split()


def series(rng: random.Random, held_out: bool) -> Exchange:
    """A fixed series, or the first few of a group."""
    form = rng.random()
    if form < 0.3:
        name, members = rng.choice(list(facts.SERIES_EN.items()))
        return said(phrase(rng, SERIES, held_out).format(name), f"The user wants {name}.", ", ".join(members) + ".")
    if form < 0.45:
        name, members = rng.choice(list(facts.SERIES_ZH.items()))
        return said(phrase(rng, SERIES_ZH, held_out).format(name), f"用户想知道{name}。", "、".join(members) + "。")
    amount = rng.randint(2, 10)
    if form < 0.65:
        name, members = rng.choice(list(facts.GROUPS_ZH.items()))
        return said(
            phrase(rng, SOME_ZH, held_out).format(rng.choice((amount, "零一两三四五六七八九十"[amount])), name),
            f"用户想要{amount}种{name}。",
            "、".join(members[:amount]) + "。",
        )
    name, members = rng.choice(list(facts.GROUPS_EN.items()))
    question = phrase(rng, SOME, held_out).format(rng.choice((amount, NUMBERS[amount])), name)
    thought = f"The user wants {amount} {name}."
    style = rng.random()
    if style < 0.2:
        rows = "\n".join(f"{i}. {member}" for i, member in enumerate(members[:amount], 1))
        return said(f"{question} Number them.", thought, rows)
    if style < 0.35:
        return said(f"{question} One per line.", thought, "\n".join(members[:amount]))
    return said(question, thought, ", ".join(members[:amount]) + ".")
