"""Guides as grammars of llguidance: what a router compiles to find mistakes, and a worker to follow.

llguidance is imported when it is first needed; `available` says whether it can be.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Values of `qwenserve.type.v1.GuideKind`.
JSON_SCHEMA, JSON_OBJECT, CHOICE, REGEX, GRAMMAR, REGIONS = range(1, 7)

# Between the parts of a JSON text: nothing, a space, or a new line and an indentation. A model that does not know how
# to go on cannot fill its answer with white space.
_JSON_STYLE = {"whitespace_pattern": r"(\n[ \t]{0,32}| )?", "lenient": False, "coerce_one_of": False}
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
# In calls: as templates write them.
_CALL_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def available() -> bool:
    """Whether guides can be compiled in this installation."""
    return importlib.util.find_spec("llguidance") is not None


def grammar_of(kind: int, text: str, special_ids: Mapping[str, int], end_ids: Sequence[int]) -> str:
    """Returns the grammar of a guide that a router has checked. `special_ids` are the tokens that are no text, by name.

    Raises ValueError for a text that is not of its kind.
    """
    from llguidance import LLMatcher

    if kind == JSON_SCHEMA:
        return LLMatcher.grammar_from_json_schema(closed(json.loads(text)), overrides=_JSON_STYLE)  # type: ignore[arg-type]
    if kind == JSON_OBJECT:
        return LLMatcher.grammar_from_json_schema('{"type":"object"}', overrides=_JSON_STYLE)  # type: ignore[arg-type]
    if kind == CHOICE:
        return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, json.loads(text))))
    if kind == REGEX:
        return LLMatcher.grammar_from_regex(text)
    if kind == GRAMMAR:
        return LLMatcher.grammar_from_lark(text)
    if kind == REGIONS:
        return LLMatcher.grammar_from_lark(_regions(json.loads(text), special_ids, end_ids))
    raise ValueError(f"{kind} is no kind of guide")


def closed(schema: Any) -> Any:
    """Returns a schema whose objects have the properties that it names and no others, where it does not say which.

    Every answer to it is one to the schema as it was. People who leave `additionalProperties` out mean this, and a
    model that is not held to the names makes up more of them without end. Where schemas are joined (`allOf`, or a
    reference with more beside it) names stand in several places, and nothing is closed.
    """
    return schema if _joins(schema) else _closed(schema)


def _joins(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(map(_joins, schema))
    if not isinstance(schema, dict):
        return False
    beside = schema.keys() - {"$ref", "$defs", "definitions", "description", "title"}
    return "allOf" in schema or ("$ref" in schema and bool(beside)) or any(map(_joins, schema.values()))


def _closed(schema: Any, *, named: bool = False) -> Any:
    """`named`: the keys are names of properties or definitions, and no keywords."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: value if key in ("enum", "const") and not named else _closed(value, named=not named and key in _MAPS)
        for key, value in schema.items()
    }
    if not named:
        properties = made.get("properties") or {}
        others = made.keys() & {"patternProperties", "anyOf", "oneOf"}
        if properties and not others and properties.keys() >= set(made.get("required", ())):
            made.setdefault("additionalProperties", False)
        if "prefixItems" in made:
            made.setdefault("items", False)
    return made


def lark_of(text: str) -> str:
    """Returns a grammar in Lark's notation: one in EBNF (`root ::= …`), as llama.cpp writes it, is translated.

    Raises ValueError for EBNF that cannot be read.
    """
    if "::=" not in text:
        return text
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return any_to_lark(text)
    except Exception as error:  # the library has errors of its own, and plain ones
        raise ValueError(f"this EBNF cannot be read: {error}") from None


def why_not(kind: int, text: str, special_ids: Mapping[str, int], end_ids: Sequence[int]) -> str:
    """Compiles a guide and returns what is wrong with it, empty where nothing is. May take a second; call in a thread.

    Tokens of their own (`<[7]>`) are taken as they stand: which there are is for the worker to say.
    """
    from llguidance import LLMatcher

    try:
        grammar = grammar_of(kind, text, special_ids, end_ids)
    except ValueError as error:
        return str(error)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return messages[0] if failed else ""


def regions_grammar(text: str, special_ids: Mapping[str, int], end_ids: Sequence[int]) -> str:
    """Returns the Lark grammar of regions, for engines that read one themselves; see `grammar_of`."""
    return _regions(json.loads(text), special_ids, end_ids)


def _regions(form: Mapping[str, Any], special_ids: Mapping[str, int], end_ids: Sequence[int]) -> str:
    """Returns the Lark grammar of regions; see `qwenserve.type.v1.GuideKind`."""
    regions, free = form["regions"], form["free"]
    lines = [f"region: {' | '.join(f'region_{number}' for number in range(len(regions)))}"]
    tokens: set[int] = set()
    texts: dict[str, str] = {}
    for number, region in enumerate(regions):
        begin, trigger = region["begin"], _trigger(region, special_ids)
        if free and trigger not in special_ids:
            # A lazy term ends with the first trigger that comes, and so takes the text before it along.
            head = texts.setdefault(trigger, f"trigger_{len(texts)}")
            terms = [head, *_pieces(begin[len(trigger) :], special_ids)]
        else:
            terms = _pieces(begin, special_ids)
            tokens |= {special_ids[trigger]} if trigger in special_ids else set()
        terms += [f"inner_{number}", *_pieces(region["end"], special_ids)]
        lines.append(f"region_{number}: {' '.join(terms)}")
        lines.append(f"inner_{number}: {_inner(region['kind'], region['text'])}")
    lines += [f"{head}[lazy]: /(.|\\n)*/ {json.dumps(trigger)}" for trigger, head in texts.items()]
    if not free:
        start = "region" if form["most"] == 1 else 'region ("\\n" region)*'
        if (instead := form.get("instead")) is not None:
            start += " | instead"
            lines.append(f"instead: {_inner(instead['kind'], instead['text'], _JSON_STYLE)}")
        return "\n".join([f"start: {start}", *lines])
    others = [token for token in special_ids.values() if token not in tokens and token not in end_ids]
    lines.append("TEXT: /(.|\\n)+/")
    lines.append(f"free: TEXT{f' | <[{_ranges(others)}]>' if others else ''}")
    if form["most"] == 1:
        start = "free* region" if form["least"] else "free* [region]"
    else:
        start = "free* region (free | region)*" if form["least"] else "(free | region)*"
    return "\n".join([f"start: {start}", *lines])


def _trigger(region: Mapping[str, Any], special_ids: Mapping[str, int]) -> str:
    """Returns what a region is known to begin by: what it says, else the token that it begins with, else all of it."""
    begin: str = region["begin"]
    if given := region.get("trigger"):
        return str(given)
    return next((name for name in special_ids if begin.startswith(name)), begin)


def _inner(kind: int, text: str, style: Mapping[str, Any] = _CALL_STYLE) -> str:
    if kind == JSON_OBJECT:
        return _inner(JSON_SCHEMA, '{"type":"object"}', style)
    if kind == CHOICE:
        return " | ".join(map(json.dumps, json.loads(text)))
    if kind == JSON_SCHEMA:
        # "::=" anywhere would make other servers take the whole for EBNF.
        schema = json.dumps(closed(json.loads(text)) | {"x-guidance": dict(style)}).replace("::=", "\\u003a:=")
        return f"%json {schema}"
    if kind == REGEX:
        return f"/{_slashes_escaped(text)}/"
    if kind == GRAMMAR:
        return f"%lark {{\n{text}\n}}"
    raise ValueError(f"a region cannot hold a guide of kind {kind}")


def _slashes_escaped(regex: str) -> str:
    return re.sub(r"(\\.)|/", lambda match: match[1] or r"\/", regex, flags=re.DOTALL)


def _pieces(text: str, special_ids: Mapping[str, int]) -> list[str]:
    """Returns a text as terms of a grammar, special tokens as their ids."""
    pattern = "|".join(re.escape(name) for name in sorted(special_ids, key=len, reverse=True))
    terms = []
    for piece in re.split(f"({pattern})", text) if pattern else [text]:
        if piece in special_ids:
            terms.append(f"<[{special_ids[piece]}]>")
        elif piece:
            terms.append(json.dumps(piece))
    return terms


def _ranges(ids: Sequence[int]) -> str:
    spans: list[list[int]] = []
    for token in sorted(set(ids)):
        if spans and token == spans[-1][1] + 1:
            spans[-1][1] = token
        else:
            spans.append([token, token])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in spans)
