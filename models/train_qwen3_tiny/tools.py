"""Tools that are generated anew for each conversation: schemas, requests that need them, results."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.chat import Call, Tool, to_json
from models.train_qwen3_tiny.families import FAMILIES
from models.train_qwen3_tiny.generated_schemas import generated
from models.train_qwen3_tiny.naming import POOL, lookalike, spelled, varied, words_of
from models.train_qwen3_tiny.new_words import about_something_else, tells
from models.train_qwen3_tiny.slots import Family, Slot
from models.train_qwen3_tiny.values import CURRENCIES, date_text, title
from models.train_qwen3_tiny.wording import core, lowered


class Request(NamedTuple):
    """One wish, the tool and call that fulfil it, and what the call returns."""

    tool: Tool
    call: Call
    ask: str
    about: str
    result: str
    answer: str
    values: tuple[str, ...]
    chinese: bool = False
    family: str = ""
    rivals: tuple[Tool, ...] = ()  # tools that look like it and do not fit


def field_value(rng: random.Random, kind: str, held_out: bool) -> Any:
    if kind == "t":
        return rng.choice((rng.randint(-15, 40), rng.randint(-15, 40), round(rng.uniform(-15, 40), 1)))
    if kind == "w":
        return rng.choice(words.WEATHERS)
    if kind == "s":
        return rng.choice(
            (
                "sent",
                "done",
                "ok",
                "shipped",
                "delivered",
                "pending",
                "on time",
                "delayed",
                "success",
                "confirmed",
                "open",
                "closed",
            )
        )
    if kind == "d":
        return words.digits(rng, rng.randint(3, 7)) if rng.random() < 0.7 else words.code(rng)
    if kind == "n":
        return rng.randint(0, 999)
    if kind == "N":
        return rng.randint(1000, 9999999)
    if kind == "f":
        return round(rng.uniform(0.1, 999), rng.choice((1, 2)))
    if kind == "h":
        return f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"
    if kind == "u":
        return rng.choice(("celsius", "fahrenheit"))
    if kind == "c":
        return rng.choice(CURRENCIES)
    if kind == "%":
        return rng.choice((f"{rng.randint(5, 99)}%", rng.randint(5, 99)))
    if kind == "D":
        return date_text(rng, held_out)
    if kind == "p":
        return words.town(rng, held_out)
    return title(rng, held_out)


def shown(value: Any) -> str:
    """A value as an answer says it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return str(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def outcome(
    rng: random.Random, held_out: bool, about: str, call: Call, kinds: Sequence[str], chinese: bool
) -> tuple[str, str, tuple[str, ...]]:
    """What a call returns, the words that report it, and the values that these must contain."""
    form = rng.random()
    if form < 0.05:
        error = rng.choice(
            (
                "not found",
                "service unavailable",
                "timeout",
                "permission denied",
                "unknown name",
                "internal error",
                "no data",
            )
        )
        result = to_json({"error": error}) if rng.random() < 0.7 else f"Error: {error}"
        return result, f"无法得到{about}：{error}。" if chinese else f"I could not get {about}: {error}.", (error,)
    if form < 0.38:
        value = shown(field_value(rng, rng.choice(kinds).split(":")[1], held_out))
        quoted = to_json(value) if rng.random() < 0.15 else value
        return quoted, f"{about}是{value}。" if chinese else f"{_capital(about)} is {value}.", (value,)
    if form < 0.46:
        value = rng.choice(
            (
                words.sentence(rng),
                f"{rng.randint(-9, 40)} degrees and {rng.choice(words.WEATHERS)}.",
                f"It is {words.invented(rng, held_out)}.",
            )
        )
        return value, f"{about}：{value}" if chinese else f"{_capital(about)}: {value}", (value.rstrip("."),)
    found: dict[str, Any] = {}
    for kind in rng.sample(kinds, rng.randint(1, min(3, len(kinds)))):
        key, code = kind.split(":")
        found[key] = field_value(rng, code, held_out)
    if rng.random() < 0.12:
        found[rng.choice((words.invented(rng, held_out), rng.choice(words.NOUNS)))] = rng.choice(
            (words.code(rng), words.invented(rng, held_out))
        )
    texts = [shown(value) for value in found.values()]
    if chinese:
        told = "，".join(f"{key} 是 {text}" for key, text in zip(found, texts, strict=True))
        answer = f"{about}：{told}。"
    else:
        bits = [f"the {key.replace('_', ' ')} is {text}" for key, text in zip(found, texts, strict=True)]
        answer = (
            f"{_capital(about)}: {' and '.join(bits) if len(bits) < 3 else ', '.join(bits[:-1]) + ' and ' + bits[-1]}."
        )
    echoed = {
        key: value for key, value in call.arguments.items() if key not in found and not isinstance(value, (list, dict))
    }
    whole = {**echoed, **found} if rng.random() < 0.3 and not any(str(v) in texts for v in echoed.values()) else found
    return to_json(whole), answer, tuple(texts)


def schema(
    rng: random.Random, name: str, description: str, properties: Mapping[str, Any], required: Sequence[str]
) -> Tool:
    """The tool in one of the shapes that clients send: written by hand, or made from a function or model by pydantic."""
    if rng.random() < 0.3:
        return generated(rng, name, description, properties, required)
    parameters: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if required or rng.random() < 0.5:
        parameters["required"] = list(required)
    style = rng.random()
    if style < 0.08:
        parameters["additionalProperties"] = False
    function: dict[str, Any] = {"name": name, "description": description, "parameters": parameters}
    if style > 0.96:
        function = {"description": description, "name": name, "parameters": parameters}
    if style > 0.985:
        function["strict"] = True
    return {"type": "function", "function": function}


def rivals(
    rng: random.Random,
    parts: Sequence[str],
    thing: Sequence[str],
    pool: Sequence[str],
    described: str,
    properties: Mapping[str, Any],
    held_out: bool,
) -> tuple[Tool, ...]:
    """Tools of the same form about other things: `parts` make the name, of which `thing` is what it is about."""
    out: list[Tool] = []
    for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2, 3))):
        changed = set(thing) if len(thing) == 1 or rng.random() < 0.5 else {rng.choice(thing)}
        other = {word: lookalike(rng, word, pool, held_out) if word in changed else word for word in thing}
        about, instead = " ".join(thing), " ".join(other.values())
        said = described.replace(about, instead).replace(about.capitalize(), instead.capitalize())
        name = spelled(rng, [other.get(part, part) for part in parts])
        out.append(schema(rng, name, said, properties, list(properties)))
    return tuple(out)


def property_of(rng: random.Random, slot: Slot) -> dict[str, Any]:
    prop: dict[str, Any] = {"type": slot.type}
    description = rng.choice(slot.descriptions)
    if slot.values and rng.random() < 0.85:
        prop["enum"] = list(slot.values)
    if description:
        prop["description"] = description
        if rng.random() < 0.1:
            prop = {"description": description, **prop}
    return prop


IMPERATIVES = frozenset(
    "Add Book Buy Check Deliver Find Get Give Make Order Pay Plan Put Record Register Rent Reserve Send Set Show Start Take Turn Write".split()
)
REQUESTED = (
    "Please {}.",
    "Can you {}?",
    "Could you {}?",
    "I want you to {}.",
    "I would like you to {}.",
    "Would you {}?",
)


class _Filled(NamedTuple):
    """A family's parameters with values: schema, what must be there, arguments, and what the sentences say."""

    properties: dict[str, Any]
    required: list[str]
    arguments: dict[str, Any]
    values: dict[str, Any]  # by slot
    suffix: str  # says the optional one


def family_request(
    rng: random.Random,
    held_out: bool,
    key: str,
    chinese: bool = False,
    value: str | None = None,
    *,
    renewed: float = 0.0,
) -> Request:
    """A request for a tool of the family; `value` fills its first slot. Of English ones that train, the share `renewed` is
    about something else than the family is."""
    family = FAMILIES[key]
    new = ""
    rival: tuple[Family, str] | None = None
    if not held_out and not chinese and rng.random() < renewed:
        rival = about_something_else(rng, FAMILIES[key], POOL)
        if other := about_something_else(rng, FAMILIES[key], POOL):
            (family, new), key = other, ""
    properties, required, arguments, values, suffix = _filled(rng, held_out, family, chinese, value)
    tool_name, described = rng.choice(family.names), rng.choice(family.descriptions)
    if not held_out:
        tool_name, described = _renamed(rng, tool_name, described, new)
    ask = core(rng, family.asks_zh if chinese else family.asks).format(**values)
    if not held_out and not chinese and ask.split(" ", 1)[0] in IMPERATIVES and rng.random() < 0.2:
        ask = rng.choice(REQUESTED).format(lowered(ask).rstrip("."))
    if suffix:
        ask = (
            f"{ask}{suffix}"
            if suffix[1].isupper()
            else f"{ask.rstrip('?.')}{suffix}{'?' if ask.endswith('?') else '.'}"
        )
    about = (family.about_zh if chinese else family.about).format(**values)
    call = Call(tool_name, arguments)
    result, answer, must = outcome(rng, held_out, about, call, family.fields, chinese)
    tool = schema(rng, tool_name, described, properties, required)
    alike: tuple[Tool, ...] = ()
    if new and rival and rival[1] != new and rng.random() < 0.4:
        name, text = rng.choice(rival[0].names), rng.choice(rival[0].descriptions)
        if name not in family.names and text not in family.descriptions:
            alike = (schema(rng, name, text, properties, required),)
    return Request(tool, call, ask, about, result, answer, must, chinese, key, alike)


def _filled(rng: random.Random, held_out: bool, family: Family, chinese: bool, first: str | None) -> _Filled:
    """Draws names and values for a family's slots; `first` is the value of the first one, if given."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    arguments: dict[str, Any] = {}
    values: dict[str, Any] = {}
    suffix = ""
    for i, (slot_key, slot) in enumerate(family.slots.items()):
        name = rng.choice([n for n in slot.names if n not in properties] or [f"{slot_key}_value"])
        if not held_out and rng.random() < 0.12:
            name = spelled(rng, varied(rng, words_of(name), held_out))
        if slot.optional and rng.random() < 0.4:
            continue
        prop = property_of(rng, slot)
        properties[name] = prop
        made = (slot.chinese if chinese and slot.chinese else slot.make)(rng, held_out)
        if i == 0 and first is not None:
            made = first
        while made in values.values():
            made = slot.make(rng, held_out)
        if slot.optional:
            if rng.random() < 0.35 and not chinese:
                suffix = rng.choice(slot.optional).format(made)
                arguments[name] = made
            elif "enum" in prop and rng.random() < 0.15:
                required.append(name)
                arguments[name] = slot.values[0]
            continue
        values[slot_key] = made
        arguments[name] = made
        required.append(name)
    return _Filled(properties, required, arguments, values, suffix)


def _renamed(rng: random.Random, name: str, described: str, new: str) -> tuple[str, str]:
    """Another name, or only one of name and description that tells what the tool is for. `new` are the words that must
    be told."""
    form = rng.random()
    if form < 0.35:
        return spelled(rng, varied(rng, words_of(name), False)), described
    if form < 0.42:
        if tells(described, new):
            name = spelled(rng, [words.invented(rng, False), *rng.choice(((), ("tool",), ("api",)))])
        return name, described
    return name, "" if form < 0.5 and tells(name, new) else described
