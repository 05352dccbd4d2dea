"""Tools that are asked for in other words than their names: "book a boat" calls `reserve_boat` or `boat_rental_booking`."""

from __future__ import annotations

import random
from typing import NamedTuple

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.chat import Tool
from models.train_qwen3_tiny.naming import MEASURES, QUALITIES, THINGS, spelled
from models.train_qwen3_tiny.natural_tools import PARTS, Part, filled, finished
from models.train_qwen3_tiny.tools import Request, schema


class Meaning(NamedTuple):
    """Verbs for the same deed, and nouns for it."""

    verbs: tuple[str, ...]
    nouns: tuple[str, ...]


def _meanings(text: str) -> tuple[Meaning, ...]:
    rows = (row.split(":") for row in text.split("|"))
    return tuple(
        Meaning(tuple(verb.strip().replace("-", " ") for verb in verbs.split()), tuple(nouns.split()))
        for verbs, nouns in rows
    )


MEANINGS = _meanings(
    "book reserve order arrange:booking reservation|cancel call-off drop abort:cancellation|rent hire lease:rental hire|"
    "buy purchase get:purchase shop|sell offer:sale seller|delete remove erase discard:deletion remover|"
    "create make add set-up build:creation creator maker|send post mail forward dispatch:sending sender dispatch|"
    "start begin launch run:start launcher|stop end halt finish:stop|close shut:closing|"
    "change modify edit update alter:update editor change|repair fix mend restore:repair|clean wash tidy:cleaning cleaner|"
    "move transfer shift relocate:transfer move|count total number:counter count|compute calculate work-out:calculator calculation|"
    "measure gauge:measurement meter|publish share release:publisher|join enter:membership|lend give-out:lending|"
    "borrow take-out:borrowing loan|call phone ring dial:call|play start-playing:player|show display view list:viewer display|"
    "review rate judge:review|pay settle:payment|enable activate switch-on turn-on:activation|"
    "disable deactivate switch-off turn-off:shutdown|lock secure:lock|copy duplicate clone:copy duplicate|"
    "write compose draft:writer draft|convert change-over turn:converter conversion|check verify inspect test examine:check inspection test|"
    "assign give allot:assignment|approve accept confirm:approval|reject decline refuse:rejection|"
    "register enrol sign-up:registration|upload put-up:upload|download fetch-down save:download|open unlock:opening|"
    "find search look-for locate seek:finder search|get fetch look-up retrieve query:lookup query info|track follow trace:tracker tracking|"
    "deliver bring ship:delivery|wrap pack box:packing|paint colour:painting|plan schedule prepare:planner schedule|"
    "print output:printing printer|report announce tell:report|store keep archive file:storage archive|"
    "invite ask-over:invitation|water sprinkle:watering|heat warm:heating|cool chill:cooling|feed nourish:feeding|draw sketch:drawing"
)
# Words for the same thing, of which the question may use one and the schema the other.
SAME_THINGS = (
    ("film", "movie"), ("flat", "apartment"), ("photo", "picture"), ("lift", "elevator"), ("bike", "bicycle"), ("shop", "store"),
    ("trip", "journey"), ("garbage", "trash"), ("job", "task"), ("doctor", "physician"), ("garden", "yard"), ("sofa", "couch"),
    ("parcel", "package"), ("letter", "note"), ("meeting", "conference"), ("show", "performance"), ("course", "class"),
    ("bill", "invoice"), ("holiday", "vacation"), ("road", "street"), ("concert", "gig"), ("coach", "bus"), ("aircraft", "plane"),
)  # fmt: skip


def _thing(rng: random.Random, held_out: bool) -> tuple[list[str], list[str]]:
    """What it is about: as the question says it and as the schema does."""
    kind = rng.random()
    if kind < 0.2:
        pair = rng.choice(SAME_THINGS)
        asked, named = rng.choice((pair, pair[::-1], (pair[0],) * 2, (pair[1],) * 2))
        return [asked], [named]
    if kind < 0.4:
        made = [rng.choice(QUALITIES), rng.choice(MEASURES)]
    elif kind < 0.6:
        made = [rng.choice(THINGS)]
    elif kind < 0.75:
        made = [rng.choice(words.NOUNS + words.ITEMS)]
    elif kind < 0.88:
        made = [rng.choice(QUALITIES), rng.choice(words.ITEMS + THINGS)]
    else:
        made = [words.invented(rng, held_out)]
    return made, made


def _name(rng: random.Random, meaning: Meaning, verb: str, thing: list[str]) -> list[str]:
    """The words of a name: a verb before or after the thing, or a noun for the deed after it."""
    if rng.random() < 0.3:
        return [*thing, rng.choice(meaning.nouns)]
    parts = verb.split()
    return [*parts, *thing] if rng.random() < 0.8 else [*thing, *parts]


def _described(rng: random.Random, verb: str, thing: str) -> str:
    form = rng.choice(("{0} a {1}", "{0} the {1}", "Use this to {2} a {1}", "Tool to {2} {1}s", ""))
    return form.format(verb.capitalize(), thing, verb)


def _rivals(
    rng: random.Random, meaning: Meaning, asked: str, thing: list[str], properties: dict[str, object], held_out: bool
) -> tuple[Tool, ...]:
    """Tools that do something else with the thing, or the same with another."""
    out: list[Tool] = []
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        if rng.random() < 0.55:
            deed = rng.choice([each for each in MEANINGS if not set(each.verbs) & set(meaning.verbs)])
            verb, about = rng.choice(deed.verbs), thing
        else:
            deed, verb, about = meaning, rng.choice((asked, rng.choice(meaning.verbs))), _thing(rng, held_out)[1]
            if about == thing:
                continue
        name = spelled(rng, _name(rng, deed, verb, about))
        described = _described(rng, rng.choice(deed.verbs), " ".join(about))
        out.append(schema(rng, name, described, properties, list(properties)))
    return tuple(out)


def worded_request(rng: random.Random, held_out: bool) -> Request:
    while True:
        meaning = rng.choice(MEANINGS)
        asked, named = rng.choice(meaning.verbs), rng.choice(meaning.verbs)
        said, thing = _thing(rng, held_out)
        if words.held_out_text(f"{asked} {named} {' '.join(said)}") == held_out:
            break
    chosen: list[Part] = []
    for part in rng.sample(PARTS, len(PARTS)):
        if part not in chosen and len(chosen) < rng.choice((1, 2, 2, 3)):
            chosen.append(part)
    properties, arguments, told = filled(rng, held_out, chosen)
    rng.shuffle(told)
    article = rng.choice(("a", "a", "the", "my"))
    body = f"{asked} {article} {' '.join(said)} {' '.join(told)}"
    ask = rng.choice(
        ("{}.", "{}.", "{}.", "Please {}.", "Can you {}?", "I want to {}.", "I would like to {}.", "Could you {}?", "I need to {}.")
    ).format(body)  # fmt: skip
    described = _described(rng, rng.choice((asked, named, rng.choice(meaning.verbs))), " ".join(thing))
    return finished(
        rng,
        held_out,
        _name(rng, meaning, named, thing),
        described,
        properties,
        arguments,
        ask[0].upper() + ask[1:],
        f"the {' '.join(said)} {told[0]}",
        _rivals(rng, meaning, asked, thing, properties, held_out),
    )
