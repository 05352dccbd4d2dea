"""More kinds of tools for training: what services for everyday life offer. The table is in everyday_kinds.txt.

Hundreds of generated tools teach a model to copy names and arguments, and yet it refuses the first tool about tides, since real
questions seldom repeat the words of a schema. Only many kinds of real questions teach that.
"""

from __future__ import annotations

import re
from pathlib import Path

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.slots import (
    CODE,
    DATE,
    ITEM,
    LANGUAGES,
    PATH,
    PERSON,
    PLACE,
    ROOM,
    TEXT,
    TIME,
    TITLE,
    Family,
    Slot,
    choice,
    number,
)
from models.train_qwen3_tiny.values import flight, symbol

FOODS = (
    "soup rice bread cheese pasta salad pizza curry noodles fish chicken cake pie eggs beans potatoes tomatoes onions carrots "
    "mushrooms honey yoghurt chocolate pancakes dumplings tofu porridge omelette"
).split()
ANIMALS = "cat dog horse parrot rabbit hamster goat sheep turtle pony cow hen duck goose lizard".split()
INVENTED = Slot(("word", "term", "name"), ("The word", ""), "string", words.invented)

BASES: dict[str, Slot] = {
    "place": PLACE,
    "person": PERSON,
    "text": TEXT,
    "title": TITLE,
    "code": CODE,
    "item": ITEM,
    "time": TIME,
    "date": DATE,
    "room": ROOM,
    "path": PATH,
    "word": INVENTED,
    "food": Slot(("food", "dish", "ingredient"), ("", "The food", "Name of the dish"), "string", lambda rng, _: rng.choice(FOODS)),
    "animal": Slot(("animal", "pet", "kind"), ("", "The animal"), "string", lambda rng, _: rng.choice(ANIMALS)),
    "flight": Slot(("flight", "flight_number"), ("", "The flight"), "string", flight),
    "symbol": Slot(("symbol", "ticker", "stock"), ("", "The symbol"), "string", symbol),
    "language": choice("language|target_language|to", LANGUAGES),
    "days": number("days|duration|num_days", 1, 30),
    "nights": number("nights|num_nights|duration", 1, 20),
    "hours": number("hours|duration|num_hours", 1, 24),
    "minutes": number("minutes|duration|length", 1, 180),
    "weeks": number("weeks|duration", 1, 12),
    "people": number("people|guests|persons|party_size|seats|count", 1, 40),
    "amount": number("amount|sum|value", 1, 9999),
    "count": number("count|quantity|number|amount", 1, 99),
    "percent": number("percent|level|value", 0, 100),
    "year": number("year|in_year", 1900, 2030),
}  # fmt: skip


def _slot(written: str) -> tuple[str, Slot]:
    """A slot from `base`, `key<base`, `base:name,name` or `key=value/value`."""
    if "=" in written:
        key, values = written.split("=")
        return key, choice(key, values.split("/"))
    rest, _, names = written.partition(":")
    key, _, base = rest.partition("<")
    slot = BASES[base or key]
    if names:
        first = names.split(",")[0].replace("_", " ")
        described = (f"The {first}", f"{first.capitalize()}", "")
        slot = slot._replace(names=tuple(names.split(",")), descriptions=described)
    return key, slot


def _kinds(table: str) -> dict[str, Family]:
    """Reads blocks of names, descriptions, slots, fields, what it is about, and one question a line."""
    out: dict[str, Family] = {}
    for block in table.strip().split("\n\n"):
        head, about, *asks = block.split("\n")
        names, descriptions, slots, fields = (part.strip() for part in head.split(" | "))
        options = tuple(names.split())
        shaped = dict(_slot(written) for written in slots.split())
        said = re.findall(r"{(\w+)}", " ".join((about, *asks)))
        assert set(said) == set(shaped), f"{options[0]}: {set(said) ^ set(shaped)}"
        out[options[0]] = Family(
            options, tuple(descriptions.split("; ")), shaped, tuple(asks), about, tuple(fields.split())
        )
    return out


EVERYDAY = _kinds(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8"))
