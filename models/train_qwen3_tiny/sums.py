"""Arithmetic: thoughts work digit by digit, answers without thinking are learned by heart below one hundred."""

from __future__ import annotations

import random
import zlib

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.chat import Exchange
from models.train_qwen3_tiny.talk import said
from models.train_qwen3_tiny.wording import phrase


def held_out_sum(a: int, b: int, sign: str) -> bool:
    """Whether the sum belongs to the tenth that training never asks."""
    return zlib.crc32(f"{a}{sign}{b}".encode()) % 10 == 0


def add_steps(a: int, b: int) -> str:
    """Column addition from the right, in words that leave nothing to be computed at once."""
    x, y = str(a)[::-1], str(b)[::-1]
    carry, parts = 0, []
    for i in range(max(len(x), len(y))):
        p, q = (int(d[i]) if i < len(d) else 0 for d in (x, y))
        total = p + q + carry
        extra = " + 1" if carry else ""
        carry = total // 10
        parts.append(f"{p} + {q}{extra} = {total}" + (f", write {total % 10}, carry 1" if carry else ""))
    return "; ".join(parts)


def subtract_steps(a: int, b: int) -> str:
    """Column subtraction from the right, for a ≥ b."""
    x, y = str(a)[::-1], str(b)[::-1]
    borrow, parts = 0, []
    for i in range(len(x)):
        p, q = int(x[i]), int(y[i]) if i < len(y) else 0
        extra = " - 1" if borrow else ""
        value = p - q - borrow
        borrow = int(value < 0)
        shown = f"{p + 10} - {q}{extra} = {value + 10}, borrow 1" if borrow else f"{p} - {q}{extra} = {value}"
        parts.append(shown)
    return "; ".join(parts)


def worked(a: int, b: int, sign: str) -> tuple[int, str]:
    """The value of `a sign b` and the thought that finds it."""
    if sign == "+":
        return a + b, f"{a} + {b}: {add_steps(a, b)}. So {a} + {b} = {a + b}."
    if sign == "-":
        if a < b:
            return a - b, f"{a} - {b} is below zero. {b} - {a}: {subtract_steps(b, a)}. So {a} - {b} = {a - b}."
        return a - b, f"{a} - {b}: {subtract_steps(a, b)}. So {a} - {b} = {a - b}."
    if a > 12 and b < 10:
        tens, ones = a // 10 * 10, a % 10
        return a * b, f"{a} * {b}: {tens} * {b} = {tens * b}, {ones} * {b} = {ones * b}. So {a} * {b} = {a * b}."
    return a * b, f"{a} * {b} = {a * b}."


def pick_sum(rng: random.Random, held_out: bool) -> tuple[int, int, str]:
    while True:
        sign = rng.choice("+++---*") if not held_out else rng.choice("+-")
        size = rng.random()
        if sign == "*":
            a, b = (
                (rng.randrange(13), rng.randrange(13)) if size < 0.7 else (rng.randrange(13, 100), rng.randrange(2, 10))
            )
        elif size < 0.8 or held_out:
            a, b = rng.randrange(100), rng.randrange(100)
        else:
            a, b = rng.randrange(1000), rng.randrange(10 ** rng.randint(1, 3))
        if sign == "-" and b > a and rng.random() < (0.85 if held_out else 0.65):
            a, b = b, a
        if held_out_sum(a, b, sign) == held_out:
            return a, b, sign


ASK = (
    "What is {}?|Calculate {}.|{} = ?|Please work out {}.|How much is {}?|{}|{}=|What's {}?|Compute {}|what is {}|Solve {}.|"
    "Can you calculate {}?|Tell me {}.|I need the result of {}.|What do I get for {}?|What does {} come to?|How much do you get for {}?|How much does {} give?|What does {} equal?|How much does {} make?"
).split("|")
ASK_ZH = "{}等于多少？|计算{}|{}=?|请计算{}。|{}是多少？|请问{}等于几？|算一下{}。|{}的结果是多少？".split("|")
SPOKEN = {"+": ("plus", "加"), "-": ("minus", "减"), "*": ("times", "乘以")}


def calculation(rng: random.Random, held_out: bool) -> Exchange:
    a, b, sign = pick_sum(rng, held_out)
    value, thought = worked(a, b, sign)
    english, chinese = SPOKEN[sign]
    form = rng.random()
    if form < 0.25:
        shown = rng.choice((f"{a}{chinese}{b}", f"{a}{sign}{b}", f"{a} {sign} {b}"))
        return said(phrase(rng, ASK_ZH, held_out).format(shown), thought, f"{a} {sign} {b} = {value}")
    shown = rng.choice((f"{a} {sign} {b}", f"{a} {sign} {b}", f"{a}{sign}{b}", f"{a} {english} {b}"))
    if sign == "*" and rng.random() < 0.3:
        shown = f"{a} x {b}"
    return said(phrase(rng, ASK, held_out).format(shown), thought, f"{a} {sign} {b} = {value}")


MORE = (
    "{0} has {1} {3} and gets {2} more. How many {3} does {0} have now?|"
    "There are {1} {3} on the table and {2} {3} in a box. How many {3} are there in all?|"
    "{0} bought {1} {3} on Monday and {2} {3} on Tuesday. How many {3} is that?|"
    "A shop has {1} {3}. {2} more arrive. How many {3} does it have?|"
    "If you have {1} {3} and {0} gives you {2}, how many {3} do you have?"
).split("|")
FEWER = (
    "{0} has {1} {3} and gives away {2}. How many {3} are left?|There were {1} {3} and {2} were sold. How many {3} are left?|"
    "A box holds {1} {3}. {0} takes {2} out. How many {3} remain?|{0} had {1} {3} and lost {2}. How many {3} are left?|"
    "From {1} {3}, {2} broke. How many {3} are left?"
).split("|")
MORE_ZH = "{0}有{1}个{3}，又买了{2}个。现在一共有多少个？|桌上有{1}个{3}，盒子里有{2}个。一共有多少个{3}？".split("|")
FEWER_ZH = "{0}有{1}个{3}，送走了{2}个。还剩多少个？|店里有{1}个{3}，卖掉了{2}个。还剩多少个{3}？".split("|")


def word_problem(rng: random.Random, held_out: bool) -> Exchange:
    a, b, sign = pick_sum(rng, held_out)
    while sign == "*" or (sign == "-" and a < b):
        a, b, sign = pick_sum(rng, held_out)
    value, thought = worked(a, b, sign)
    if rng.random() < 0.3:
        who, thing = words.person_zh(rng, held_out), rng.choice(("苹果", "鸡蛋", "橙子", "杯子", "盒子", "球"))
        question = rng.choice(MORE_ZH if sign == "+" else FEWER_ZH).format(who, a, b, thing)
        left = "一共有" if sign == "+" else "还剩"
        return said(question, thought, f"{left}{value}个。")
    who, thing = words.person(rng, held_out), rng.choice(words.ITEMS) + "s"
    question = phrase(rng, MORE if sign == "+" else FEWER, held_out, after=False).format(who, a, b, thing)
    return said(question, thought, f"The answer is {value} {thing}.", f" {value} ")


def comparison(rng: random.Random, held_out: bool) -> Exchange:
    a, b = rng.sample(range(10 ** rng.randint(1, 4)), 2)
    larger, smaller = max(a, b), min(a, b)
    if rng.random() < 0.3:
        return said(
            rng.choice((f"{a}和{b}哪个大？", f"{a}大还是{b}大？")),
            f"{larger} > {smaller}。",
            f"{larger}更大。",
            str(larger),
        )
    if rng.random() < 0.5:
        question = rng.choice(
            (f"Which is larger, {a} or {b}?", f"Is {a} or {b} larger?", f"Which number is bigger: {a} or {b}?")
        )
        return said(question, f"{larger} > {smaller}.", f"{larger} is larger than {smaller}.")
    return said(f"Which is smaller, {a} or {b}?", f"{smaller} < {larger}.", f"{smaller} is smaller than {larger}.")


def chain(rng: random.Random, held_out: bool) -> Exchange:
    """Three numbers, added one after the other."""
    while True:
        a, b, c = (rng.randrange(1, 60) for _ in range(3))
        if held_out_sum(a, b, "+") == held_out and held_out_sum(a + b, c, "+") == held_out:
            break
    first, second = worked(a, b, "+")[1], worked(a + b, c, "+")[1]
    text = f"{a} + {b} + {c}"
    return said(phrase(rng, ASK, held_out).format(text), f"{first} {second}", f"{text} = {a + b + c}")


def calculation_held_out(rng: random.Random) -> Exchange:
    """A held-out sum in a held-out phrasing, addition or subtraction below one hundred."""
    return calculation(rng, True)
