"""Guides as requests ask for them: checked here, before any engine hears of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from qwenserve.router.guides import json_schema
from qwenserve.router.guides.json_schema import SchemaError
from qwenserve.router.guides.regex_cost import RegexError, check_regex
from qwenserve.type.v1 import guide_pb2

MAX_CHOICES = 1_000
MAX_CHOICE_CHARACTERS = 64_000
MAX_GRAMMAR_CHARACTERS = 64_000
MAX_JSON_CHARACTERS = 1_200_000
MAX_TRIGGER_CHARACTERS = 1_000
MAX_REGIONS = 256

# Longest end of a text of regions, behind the list of them.
_TAIL = len(',"free":false,"least":0,"most":0}')

_START_RULE = re.compile(r"^\s*[?!]?start\s*(?:\.\s*-?[0-9]+\s*)?:", re.MULTILINE)


class GuideKind(IntEnum):
    """How a guide's text is to be read. Values equal `qwenserve.type.v1.GuideKind`."""

    JSON_SCHEMA = 1
    JSON_OBJECT = 2
    CHOICE = 3
    REGEX = 4
    GRAMMAR = 5
    REGIONS = 6


_INSTEAD = tuple(kind for kind in GuideKind if kind is not GuideKind.REGIONS)
_IN_REGIONS = (GuideKind.JSON_SCHEMA, GuideKind.REGEX, GuideKind.GRAMMAR)


class Guide(NamedTuple):
    """A form that has been checked: equal forms are equal values. `text` is what the kind says of it."""

    kind: GuideKind
    text: str


class Region(NamedTuple):
    """A part of an answer that keeps to a form: it begins with `begin` and ends with `end`. `trigger` is the part of
    `begin`, from its beginning on, that nothing but a region begins with.
    """

    begin: str
    guide: Guide
    end: str
    trigger: str


class GuideError(ValueError):
    """A guide that cannot be followed. `path` is the place in it, empty for all of it."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.message = message
        self.path = path


def checked(kind: GuideKind, text: str) -> Guide:
    """Returns the guide, its text in one spelling. Raises GuideError. Large ones take time: not for an event loop."""
    if kind is GuideKind.JSON_SCHEMA:
        try:
            return Guide(kind, json_schema.prepared(text))
        except SchemaError as error:
            raise GuideError(error.message, error.path) from None
    if kind is GuideKind.JSON_OBJECT:
        if text:
            raise GuideError("any JSON object has no text of its own; leave it empty")
        return Guide(kind, "")
    if kind is GuideKind.REGIONS:
        return checked_regions(text)
    if kind is GuideKind.CHOICE:
        return Guide(kind, _choices(text))
    if kind is GuideKind.REGEX:
        try:
            check_regex(text)
        except RegexError as error:
            raise GuideError(str(error)) from None
        if not text:
            raise GuideError("it is empty; only an empty answer would match")
        return Guide(kind, text)
    check_grammar_length(text)
    if _START_RULE.search(text) is None:
        raise GuideError("it has no rule called start; grammars are written in Lark's notation")
    return Guide(kind, text)


def check_grammar_length(text: str) -> None:
    """Raises GuideError for a grammar that is too long to be looked at."""
    if len(text) > MAX_GRAMMAR_CHARACTERS:
        raise GuideError(f"{len(text):,} characters; at most {MAX_GRAMMAR_CHARACTERS:,}")


def regions_guide(
    regions: Sequence[Region], *, free: bool, least: int, most: int, instead: Guide | None = None
) -> Guide:
    """Returns the guide of an answer with regions: see `qwenserve.type.v1.GuideKind`."""
    form = {
        "regions": [
            {"begin": begin, "kind": int(guide.kind), "text": guide.text, "end": end}
            | ({"trigger": trigger} if trigger else {})
            for begin, guide, end, trigger in regions
        ],
        **({"instead": {"kind": int(instead.kind), "text": instead.text}} if instead is not None else {}),
        "free": free,
        "least": least,
        "most": most,
    }
    return Guide(GuideKind.REGIONS, json.dumps(form, ensure_ascii=False, separators=(",", ":")))


def is_free(guide: guide_pb2.Guide) -> bool:
    """Whether a checked guide leaves text around its regions free; others bind the whole answer."""
    # How regions are written here ends with these members, and has no other like them: no text is parsed for it.
    return guide.kind == guide_pb2.GUIDE_KIND_REGIONS and '"free":true' in guide.text[-_TAIL:]


def checked_regions(text: str) -> Guide:
    """Returns the guide of a text of regions. Raises GuideError."""
    _check_length(text)
    try:
        form = json.loads(text)
    except (ValueError, RecursionError):
        form = None
    if not isinstance(form, dict) or form.keys() - {"instead"} != {"regions", "free", "least", "most"}:
        raise GuideError("regions are a JSON object with regions, free, least and most, and may have instead")
    if type(form["free"]) is not bool or form["least"] not in (0, 1) or form["most"] not in (0, 1):
        raise GuideError("free is true or false, least and most are 0 or 1")
    given = form["regions"]
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_REGIONS:
        raise GuideError(f"it is a list of 1 to {MAX_REGIONS}", "regions")
    regions = []
    for number, each in enumerate(given):
        path = f"regions[{number}]"
        if not isinstance(each, dict) or each.keys() - {"trigger"} != {"begin", "kind", "text", "end"}:
            raise GuideError("a region has begin, kind, text and end, and may have a trigger", path)
        if not all(isinstance(each.get(name, ""), str) for name in ("begin", "text", "end", "trigger")):
            raise GuideError("begin, text, end and trigger are texts", path)
        if each["kind"] not in _IN_REGIONS:
            raise GuideError(
                "a region holds a JSON schema (1), a regular expression (4) or a grammar (5)", f"{path}.kind"
            )
        if not each["begin"].startswith(each.get("trigger", "")):
            raise GuideError("begin begins with it", f"{path}.trigger")
        for name in ("begin", "end"):
            if not 1 <= len(each[name]) <= MAX_TRIGGER_CHARACTERS:
                raise GuideError(f"{len(each[name]):,} characters; 1 to {MAX_TRIGGER_CHARACTERS:,}", f"{path}.{name}")
        try:
            inner = checked(GuideKind(each["kind"]), each["text"])
        except GuideError as error:
            raise GuideError(error.message, f"{path}.text{'.' if error.path else ''}{error.path}") from None
        regions.append(Region(each["begin"], inner, each["end"], each.get("trigger", "")))
    return regions_guide(
        regions, free=form["free"], least=form["least"], most=form["most"], instead=_instead(form.get("instead"))
    )


def _instead(given: object) -> Guide | None:
    if given is None:
        return None
    if not isinstance(given, dict) or given.keys() != {"kind", "text"} or not isinstance(given["text"], str):
        raise GuideError("it has kind and text", "instead")
    if given["kind"] not in _INSTEAD:
        raise GuideError("it is any kind of guide but regions", "instead.kind")
    try:
        return checked(GuideKind(given["kind"]), given["text"])
    except GuideError as error:
        raise GuideError(error.message, f"instead.text{'.' if error.path else ''}{error.path}") from None


def _check_length(text: str) -> None:
    """Raises GuideError for JSON that would take long to read. What it may hold is checked once it was read."""
    if len(text) > MAX_JSON_CHARACTERS:
        raise GuideError(f"{len(text):,} characters; at most {MAX_JSON_CHARACTERS:,}")


def _choices(text: str) -> str:
    _check_length(text)
    try:
        choices = json.loads(text)
    except (ValueError, RecursionError):
        choices = None
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise GuideError("choices are a list of texts")
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise GuideError(f"{len(choices):,} choices; 1 to {MAX_CHOICES:,}")
    if sum(map(len, choices)) > MAX_CHOICE_CHARACTERS:
        raise GuideError(f"{sum(map(len, choices)):,} characters in all choices; at most {MAX_CHOICE_CHARACTERS:,}")
    for number, choice in enumerate(choices):
        if not choice:
            raise GuideError("it is empty; an answer has a text", f"[{number}]")
    # The same one twice is one.
    return json.dumps(list(dict.fromkeys(choices)), ensure_ascii=False, separators=(",", ":"))
