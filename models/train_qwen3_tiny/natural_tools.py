"""Tools with any name that are asked for in natural sentences: the tool is found by its words, the arguments by theirs."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.chat import Call, Tool
from models.train_qwen3_tiny.naming import ACTIONS, MEASURES, PARAMETERS, POOL, QUALITIES, THINGS, spelled, varied
from models.train_qwen3_tiny.tools import Request, outcome, rivals, schema
from models.train_qwen3_tiny.values import CURRENCIES, Make, code, date_text, item, short_text, time_text, title


class Part(NamedTuple):
    """A piece of a sentence that holds one argument, and how schemas call and type it."""

    phrases: tuple[str, ...]
    names: tuple[str, ...]
    type: str
    make: Make


def _part(phrases: str, names: str, make: Make, kind: str = "string") -> Part:
    return Part(tuple(phrases.split("|")), tuple(names.split()), kind, make)


def _count(rng: random.Random, _: bool) -> int:
    return rng.randint(1, rng.choice((9, 30, 500)))


AT_TIME = _part("at {}|at {}|for {}", "time at when clock_time start start_time hour", time_text)
ON_DAY = _part("on {}|for {}", "date day when on_date", date_text)
IN_PLACE = _part(
    "in {}|in {}|in {}|for {}|of {}|near {}",
    "city town place location city_name location_name where area region",
    words.town,
)
OF_PERSON = _part(
    "for {}|of {}|with {}|for {}|of {}|with {}|for {}|of {}|with {}|with Dr. {}|for Mr. {}|of Prof. {}|with Ms. {}",
    "name person user customer who guest owner contact",
    words.person,
)
AT_VENUE = _part("at {}|at {}|in {}", "venue restaurant hotel shop museum cinema club bar theatre venue_name", title)
FOR_PEOPLE = _part(
    "for {} people|for {} guests|for {} persons|for {}",
    "people guests persons party_size count seats number_of_people size",
    _count,
    "integer",
)
FOR_DAYS = _part(
    "for {} days|for {} nights|for {} hours|for {} weeks", "days nights hours weeks duration length", _count, "integer"
)
OF_CODE = _part("{}|with the number {}|number {}|of {}", "id code number reference key order_id", code)
PARTS = (AT_TIME, ON_DAY, IN_PLACE, IN_PLACE, OF_PERSON, AT_VENUE, FOR_PEOPLE, FOR_DAYS, OF_CODE)
BETWEEN = (
    ("from", "to"), ("from", "to"), ("source", "target"), ("origin", "destination"), ("start", "end"), ("base", "quote"),
    ("first", "second"), ("from_value", "to_value"), ("base", "target"), ("left", "right"), ("from", "target"),
)  # fmt: skip
VERBS = (
    "order rent hire buy sell mix paint print plan plant bake build fix wash weigh measure count fold pack wrap sign draw film "
    "encode decode spell summarize rewrite shorten colour shrink rotate sing read rank sort tag score mark book schedule request invite"
).split()
KINDS = (
    "modern classic ancient formal casual loud quiet simple fancy dark bright northern southern royal local global digital manual "
    "round square soft hard dry wet sweet sour morning evening summer winter"
).split()


def _words(rng: random.Random, held_out: bool) -> list[str]:
    """What a tool is about: one or two words, known or invented."""
    kind = rng.random()
    if kind < 0.3:
        return [rng.choice(QUALITIES), rng.choice(MEASURES)]
    if kind < 0.5:
        return [rng.choice(THINGS)]
    if kind < 0.62:
        return [rng.choice(words.NOUNS + words.ITEMS)]
    if kind < 0.74:
        return [words.invented(rng, held_out)]
    if kind < 0.88:
        return [words.invented(rng, held_out), rng.choice(MEASURES)]
    return [rng.choice(QUALITIES + THINGS), words.invented(rng, held_out)]


def _new_pair(rng: random.Random, held_out: bool) -> tuple[str, list[str]]:
    """A verb and a thing whose combination belongs to the wanted share."""
    while True:
        verb = rng.choice(VERBS + ACTIONS) if rng.random() < 0.8 else words.invented(rng, held_out)
        thing = _words(rng, held_out)
        if words.held_out_text(f"{verb} {' '.join(thing)}") == held_out:
            return verb, thing


def natural_request(rng: random.Random, held_out: bool) -> Request:
    kind = rng.random()
    if kind < 0.36:
        return _lookup(rng, held_out)
    if kind < 0.55:
        return _between(rng, held_out)
    if kind < 0.83:
        return _action(rng, held_out)
    return _into(rng, held_out)


def _described(
    rng: random.Random, names: tuple[str, ...] | list[str], kind: str, always: bool = False
) -> dict[str, Any]:
    prop: dict[str, Any] = {"type": kind}
    if always or rng.random() < 0.4:
        prop["description"] = rng.choice(("The {}", "Which {}", "{}", "The {} to use")).format(
            rng.choice(names).replace("_", " ")
        )
    return prop


def finished(
    rng: random.Random,
    held_out: bool,
    parts: list[str],
    described: str,
    properties: dict[str, Any],
    arguments: dict[str, Any],
    ask: str,
    about: str,
    alike: tuple[Tool, ...] = (),
) -> Request:
    """Puts schema, call and result together; at times the schema has a further, optional parameter."""
    if rng.random() < 0.2:
        parts = varied(rng, parts, held_out)
    form = rng.random()
    if form < 0.2 and len(parts) > 1:
        parts = [*parts[1:], parts[0]]
    elif form < 0.3:
        parts = [*parts, rng.choice((rng.choice(PARAMETERS), rng.choice(MEASURES), words.invented(rng, held_out)))]
    name = spelled(rng, parts)
    required = list(arguments)
    if rng.random() < 0.2:
        extra = rng.choice(PARAMETERS)
        if extra not in properties:
            properties[extra] = _described(rng, [extra], rng.choice(("string", "integer", "boolean")))
    tool = schema(rng, name, described, properties, required)
    call = Call(name, arguments)
    kinds = tuple(f"{rng.choice(PARAMETERS + MEASURES)}:{rng.choice('swdnfhqp')}" for _ in range(3))
    result, answer, must = outcome(rng, held_out, about, call, kinds, chinese=False)
    return Request(tool, call, ask, about, result, answer, must, rivals=alike)


def filled(rng: random.Random, held_out: bool, chosen: list[Part]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Properties, arguments and the words that carry the arguments."""
    properties: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    told: list[str] = []
    used: set[str] = set()
    for part in chosen:
        free = [name for name in part.names if name not in properties]
        known = rng.random() < 0.85
        name = rng.choice(free) if known else words.invented(rng, held_out)
        # A name without a meaning needs a description, unless there is nothing to confuse it with.
        properties[name] = _described(rng, part.names, part.type, always=not known and len(chosen) > 1)
        if known and rng.random() < 0.1:
            properties[spelled(rng, varied(rng, name.split("_"), held_out))] = properties.pop(name)
            name = next(reversed(properties))
        arguments[name] = part.make(rng, held_out)
        # Two arguments after the same preposition could stand for each other.
        phrases = ("in {}", "near {}") if part is IN_PLACE and OF_PERSON in chosen else part.phrases
        fresh = [each for each in phrases if each.split("{")[0] not in used] or phrases
        phrase = rng.choice(fresh)
        used.add(phrase.split("{")[0])
        told.append(phrase.format(arguments[name]))
    if rng.random() < 0.25:
        keys = list(properties)
        rng.shuffle(keys)
        properties = {key: properties[key] for key in keys}
    return properties, {key: arguments[key] for key in properties}, told


def _lookup(rng: random.Random, held_out: bool) -> Request:
    """ "What is the noise level in Lyon?" """
    verb = rng.choice(("get", "get", "find", "fetch", "lookup", "show", "check", "query"))
    while True:
        thing = _words(rng, held_out)
        if words.held_out_text(" ".join(thing)) == held_out:
            break
    chosen = [rng.choice((IN_PLACE, IN_PLACE, IN_PLACE, OF_PERSON, OF_CODE, AT_VENUE))]
    if rng.random() < 0.2:
        chosen.append(rng.choice((ON_DAY, AT_TIME, FOR_DAYS)))
    properties, arguments, told = filled(rng, held_out, chosen)
    named = " ".join(thing)
    about = f"the {named} {told[0]}"
    where = " ".join(told)
    ask = rng.choice(
        (
            f"What is the {named} {where}?", f"How is the {named} {where}?", f"Tell me the {named} {where}.", f"What's the {named} {where}?",
            f"Show me the {named} {where}.", f"I need the {named} {where}.", f"How high is the {named} {where}?", f"Get the {named} {where}.",
            f"Do you know the {named} {where}?", f"Find the {named} {where}.", f"{named.capitalize()} {where}?",
        )
    )  # fmt: skip
    described = rng.choice(
        (
            "Get the {0}",
            "{1} of a place",
            "Returns the {0}",
            "Look up the {0} in a city",
            "The current {0}",
            "{1} in a city",
        )
    )
    parts = thing if rng.random() < 0.35 else [verb, *thing]
    described = described.format(named, named.capitalize())
    alike = rivals(rng, parts, thing, POOL, described, properties, held_out)
    return finished(rng, held_out, parts, described, properties, arguments, ask, about, alike)


def _between(rng: random.Random, held_out: bool) -> Request:
    """ "What is the fuel cost from A to B?" """
    while True:
        thing = _words(rng, held_out)
        if words.held_out_text(" ".join(thing)) == held_out:
            break
    make: Make = rng.choice((words.town, words.town, lambda r, _: r.choice(CURRENCIES), code, words.invented, item))
    first, second = make(rng, held_out), make(rng, held_out)
    while first == second:
        second = make(rng, held_out)
    names = rng.choice(BETWEEN)
    properties = {name: _described(rng, [name], "string") for name in names}
    pool = (*CURRENCIES, "AUD", "CAD")
    if first in CURRENCIES and rng.random() < 0.7:
        for prop in properties.values():
            prop["enum"] = list(pool)
    named = " ".join(thing)
    joins = rng.choice((("from", "to"), ("from", "to"), ("between", "and"), ("of", "in"), ("from", "into")))
    about = f"the {named} {joins[0]} {first} {joins[1]} {second}"
    ask = rng.choice(
        (
            f"What is {about}?",
            f"Tell me {about}.",
            f"Get {about}.",
            f"How high is {about}?",
            f"I need {about}.",
            f"What's {about}?",
        )
    )
    parts = thing if rng.random() < 0.4 else [rng.choice(("get", "find", "compute", "check")), *thing]
    described = rng.choice(("{} of two values", "Get the {}", "The {} between two places", "Returns the {}")).format(
        named
    )
    alike = rivals(rng, parts, thing, POOL, described, properties, held_out)
    return finished(rng, held_out, parts, described, properties, {names[0]: first, names[1]: second}, ask, about, alike)


def _action(rng: random.Random, held_out: bool) -> Request:
    """ "Rent a boat for 4 people at the Blue Harbour on Friday." """
    verb, thing = _new_pair(rng, held_out)
    amount = rng.choice((1, 2, 2, 3, 3))
    chosen: list[Part] = []
    for part in rng.sample(PARTS, len(PARTS)):
        if part not in chosen and len(chosen) < amount:
            chosen.append(part)
    properties, arguments, told = filled(rng, held_out, chosen)
    rng.shuffle(told)
    named = " ".join(thing)
    article = rng.choice(("a", "a", "the", "my"))
    body = f"{verb} {article} {named} {' '.join(told)}"
    ask = rng.choice(
        ("{}.", "{}.", "Please {}.", "Can you {}?", "I want to {}.", "I would like to {}.", "Could you {}?")
    ).format(body)
    described = rng.choice(("{0} a {1}", "{0} the {1}", "{0}s a {1}", "Use this to {2} a {1}")).format(
        verb.capitalize(), named, verb
    )
    return finished(
        rng,
        held_out,
        [verb, *thing],
        described,
        properties,
        arguments,
        ask[0].upper() + ask[1:],
        f"the {named} {told[0]}",
        rivals(rng, [verb, *thing], thing, POOL, described, properties, held_out),
    )


def _into(rng: random.Random, held_out: bool) -> Request:
    """ "Encode "quiet river" into classic." """
    while True:
        verb = rng.choice(VERBS) if rng.random() < 0.6 else words.invented(rng, held_out)
        if words.held_out_text(verb + " text") == held_out:
            break
    text = short_text(rng, held_out)
    pool = KINDS if rng.random() < 0.6 else [words.invented(rng, held_out).capitalize() for _ in range(8)]
    values = rng.sample(pool, rng.randint(2, 6))
    value = rng.choice(values)
    text_name = rng.choice(("text", "body", "content", "message", "input", "phrase", "sentence"))
    name = rng.choice(
        ("style", "language", "format", "to", "target", "kind", "tone", "mode", "target_language", "into")
    )
    properties: dict[str, Any] = {
        text_name: _described(rng, [text_name], "string"),
        name: _described(rng, [name], "string"),
    }
    if rng.random() < 0.6:
        properties[name]["enum"] = values
    shown = f'"{text}"' if rng.random() < 0.6 else text
    ask = rng.choice(
        ("{} {} into {}.", "{} {} to {}.", "Please {} {} into {}.", "Please {} {} to {}.", "{} {} as {}.")
    ).format(verb, shown, value)
    parts = [verb] if rng.random() < 0.4 else [verb, "text"]
    described = rng.choice(("{0} a text", "{0}s text into a {1}", "{0} text")).format(
        verb.capitalize(), name.replace("_", " ")
    )
    about = f"the {verb} text of {text}"
    return finished(
        rng, held_out, parts, described, properties, {text_name: text, name: value}, ask[0].upper() + ask[1:], about
    )
