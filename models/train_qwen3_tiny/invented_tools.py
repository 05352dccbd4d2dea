"""Tools made of a random verb, noun and parameters, so that calls must be read off the schema."""

from __future__ import annotations

import random
from typing import Any

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.chat import Call
from models.train_qwen3_tiny.naming import ACTIONS, LOOKUPS, PARAMETERS, THINGS, spelled
from models.train_qwen3_tiny.tools import Request, outcome, rivals, schema, shown

VALUES = (
    "low medium high small large fast slow red blue green north south east west daily weekly monthly draft final public private "
    "first second basic premium gold silver urgent normal json csv xml pdf metric imperial ascending descending cold warm"
).split()


def _parameter(rng: random.Random, held_out: bool, taken: set[str]) -> str:
    while True:
        kind = rng.random()
        if kind < 0.5:
            name = rng.choice(PARAMETERS)
        elif kind < 0.75:
            name = f"{rng.choice(THINGS)}_{rng.choice(PARAMETERS)}"
        else:
            name = words.invented(rng, held_out)
        if name not in taken:
            taken.add(name)
            return name


def _value(rng: random.Random, held_out: bool) -> tuple[dict[str, Any], Any]:
    """A property's schema and a value for it."""
    kind = rng.random()
    if kind < 0.26:
        made = rng.choice(
            (
                words.invented(rng, held_out),
                words.invented(rng, held_out).capitalize(),
                words.person(rng, held_out),
                words.town(rng, held_out),
            )
        )
        return {"type": "string"}, made
    if kind < 0.4:
        return {"type": "string"}, words.code(rng)
    if kind < 0.6:
        return {"type": "integer"}, rng.randint(0, 10 ** rng.randint(1, 5))
    if kind < 0.67:
        return {"type": "number"}, round(rng.uniform(0, 200), rng.choice((1, 2)))
    if kind < 0.76:
        return {"type": "boolean"}, rng.random() < 0.5
    if kind < 0.94:
        pool = VALUES if rng.random() < 0.6 else [words.invented(rng, held_out) for _ in range(6)]
        values = rng.sample(pool, rng.randint(2, 5))
        return {"type": "string", "enum": values}, rng.choice(values)
    items = [rng.choice((words.invented(rng, held_out), rng.choice(words.ITEMS))) for _ in range(rng.randint(1, 4))]
    return {"type": "array", "items": {"type": "string"}}, items


def _in_words(rng: random.Random, value: Any) -> str:
    if isinstance(value, bool):
        return rng.choice(("true", "yes")) if value else rng.choice(("false", "no"))
    if isinstance(value, list):
        return ", ".join(map(str, value[:-1])) + (" and " if len(value) > 1 else "") + str(value[-1])
    if isinstance(value, str) and rng.random() < 0.15:
        return f'"{value}"'
    return str(value)


def invented_request(rng: random.Random, held_out: bool, verb: str | None = None, noun: str | None = None) -> Request:
    """A wish for an invented tool; pairs of verb and noun are held out like invented words."""
    looks_up = rng.random() < 0.4
    while True:
        does = verb or rng.choice(LOOKUPS if looks_up else ACTIONS)
        thing = noun or (rng.choice(THINGS) if rng.random() < 0.85 else words.invented(rng, held_out))
        if verb or noun or words.held_out_text(f"{does} {thing}") == held_out:
            break
    taken: set[str] = set()
    properties: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    required: list[str] = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 2, 3, 3, 4))):
        name = _parameter(rng, held_out, taken)
        properties[name], value = _value(rng, held_out)
        if rng.random() < 0.5:
            text = rng.choice(("The {0}", "The {0} of the {1}", "{0} to use", "Which {0}")).format(
                name.replace("_", " "), thing
            )
            properties[name]["description"] = text
        if rng.random() < 0.2:
            continue  # optional and not mentioned
        arguments[name] = value
        if rng.random() < 0.85:
            required.append(name)
    parts = [does, thing, *([rng.choice(PARAMETERS)] if rng.random() < 0.1 else [])]
    tool_name = spelled(rng, parts)
    told = [
        _mention(rng, name.replace("_", " ") if rng.random() < 0.8 else name, value)
        for name, value in arguments.items()
    ]
    ask = _ask(rng, does if does != "lookup" else "look up", thing, told)
    about = f"the {thing}"
    described = f"{does.capitalize() if does != 'lookup' else 'Look up'} {rng.choice(('a', 'the'))} {thing}"
    described = described if rng.random() < 0.92 else ""
    tool = schema(rng, tool_name, described, properties, required)
    call = Call(tool_name, {name: arguments[name] for name in properties if name in arguments})
    kinds = tuple(f"{rng.choice(PARAMETERS + THINGS)}:{rng.choice('swdnfhqp')}" for _ in range(3))
    result, answer, must = outcome(rng, held_out, about, call, kinds, chinese=False)
    alike = rivals(rng, parts, [thing], THINGS, described, properties, held_out)
    return Request(tool, call, ask, about, result, answer, must, rivals=alike)


def _mention(rng: random.Random, name: str, value: Any) -> str:
    text = _in_words(rng, value)
    return rng.choice(
        (
            f"{name} {text}",
            f"{name} {text}",
            f"{name} = {text}",
            f"{name}: {text}",
            f"the {name} {text}",
            f"{text} as the {name}",
        )
    )


def _ask(rng: random.Random, verb: str, thing: str, told: list[str]) -> str:
    joined = ", ".join(told[:-1]) + (" and " if len(told) > 1 else "") + told[-1] if told else ""
    article = rng.choice(("the", "the", "a", "my"))
    if not told:
        return rng.choice(
            (
                f"{verb.capitalize()} {article} {thing}.",
                f"Please {verb} {article} {thing}.",
                f"Can you {verb} {article} {thing}?",
            )
        )
    return rng.choice(
        (
            f"{verb.capitalize()} {article} {thing} with {joined}.",
            f"Please {verb} {article} {thing} with {joined}.",
            f"Can you {verb} {article} {thing} with {joined}?",
            f"I want to {verb} {article} {thing}. Use {joined}.",
            f"{verb.capitalize()} {article} {thing}: {joined}.",
            f"With {joined}, {verb} {article} {thing}.",
            f"{verb.capitalize()} {article} {thing} ({joined}).",
        )
    )


def all_texts(request: Request) -> list[str]:
    """The argument values as text, for tests that look for held-out words."""
    return [shown(value) for value in request.call.arguments.values()]
