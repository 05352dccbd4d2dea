"""What kinds of tools are made of: parameters with their names, descriptions and values, and the form of a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.values import Make, code, date_text, item, path, short_text, time_text, title


class Slot(NamedTuple):
    """A kind of parameter: how schemas call it and what goes into it."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    type: str
    make: Make
    values: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # the ways to mention it when it is not required
    chinese: Make | None = None


class Family(NamedTuple):
    """A kind of tool with the questions that call for it. `{slot}` stands for the slot's value."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    slots: Mapping[str, Slot]
    asks: tuple[str, ...]
    about: str
    fields: tuple[str, ...]
    asks_zh: tuple[str, ...] = ()
    about_zh: str = ""


def options(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


def _whole(low: int, high: int) -> Make:
    return lambda rng, _: rng.randint(low, high)


def _of(*options: str) -> Make:
    return lambda rng, _: rng.choice(options)


PLACE = Slot(
    options("city|location|town|place|city_name|location_name|where"),
    options(
        "The city|The name of the city|Name of the town|The place|The city and state, e.g. San Francisco, CA|"
        "The city to look up|A city, e.g. Paris||The city name"
    ),
    "string", words.town, chinese=words.town_zh,
)  # fmt: skip
PERSON = Slot(
    options("name|person|contact|recipient|user|who|to|contact_name"),
    options("The person|Name of the person|The name of the contact|Who it is for||The recipient"),
    "string", words.person, chinese=words.person_zh,
)  # fmt: skip
UNIT = Slot(
    options("unit|units|temperature_unit|scale"), options("The unit|The temperature unit||Unit of the temperature"), "string",
    _of("celsius", "fahrenheit"), values=("celsius", "fahrenheit"),
    optional=options(" in {}| Use {}.| Give it in {}.| in {}, please"),
)  # fmt: skip
TEXT = Slot(
    options("text|message|body|content"),
    options("The text|The message|The text to send||Content"),
    "string",
    short_text,
)
TITLE = Slot(options("title|song|name|track"), options("The title|Title of the piece||The name"), "string", title)
CODE = Slot(
    options("id|code|order_id|number|reference|key"),
    options("The number|The identifier|The id||The code"),
    "string",
    code,
)
ITEM = Slot(
    options("item|product|article|product_name"), options("The item|Name of the product||The article"), "string",
    item,
)  # fmt: skip
TIME = Slot(options("time|at|clock_time|when"), options("The time|Time of day||When"), "string", time_text)
DATE = Slot(options("date|day|when|on_date"), options("The date|The day||Date of the event"), "string", date_text)
ROOM = Slot(
    options("room|area|zone|room_name"), options("The room|Name of the room||Which room"), "string",
    _of("kitchen", "bedroom", "bathroom", "garage", "hall", "office", "living room", "cellar", "attic"),
)  # fmt: skip
PATH = Slot(options("path|file|filename|file_path"), options("The path|Path of the file||The file"), "string", path)
LANGUAGES = ("French", "German", "Spanish", "Chinese", "Italian", "Japanese", "English")


def number(names: str, low: int, high: int) -> Slot:
    return Slot(options(names), ("", "The number", "How many"), "integer", _whole(low, high))


def choice(names: str, values: Sequence[str], optional: str = "") -> Slot:
    return Slot(
        options(names), ("", "One of the values", "Which one"), "string", _of(*values), tuple(values),
        options(optional) if optional else (),
    )  # fmt: skip
