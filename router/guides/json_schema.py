"""JSON Schemas that answers must follow: checked before any engine sees them, without keywords that restrict nothing.

A keyword that would have to be ignored is refused with its path: an answer that breaks a rule of its schema is worse
than an error. Titles, descriptions and the like are taken out, so that equal forms are equal texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from qwenserve.router.guides.regex_cost import RegexError, check_regex

MAX_CHARACTERS = 256_000
MAX_DEPTH = 64
MAX_SCHEMAS = 5_000
# Lengths and counts that a form can ask for.
MAX_COUNT = 10_000

_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
# Formats that engines know; others say nothing about the text, as JSON Schema has it.
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
_ONE = ("additionalProperties", "items")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_COUNTS = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# Rules that no engine's guide keeps, with the value that makes each of them say nothing.
_UNSUPPORTED: Mapping[str, Any] = {
    "not": None,
    "if": None,
    "then": None,
    "else": None,
    "contains": None,
    "minContains": None,
    "maxContains": None,
    "uniqueItems": False,
    "propertyNames": None,
    "dependentRequired": {},
    "dependentSchemas": {},
    "dependencies": {},
    "unevaluatedProperties": True,
    "unevaluatedItems": True,
    "additionalItems": True,
    "$dynamicRef": None,
    "$recursiveRef": None,
    "x-guidance": None,
}


class SchemaError(ValueError):
    """A schema that no answer can be bound to. `path` is the place in it, such as `properties.name.pattern`."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.message = message
        self.path = path


def prepared(text: str) -> str:
    """Returns the schema as compact JSON without annotations. Raises SchemaError."""
    if len(text) > MAX_CHARACTERS:
        raise SchemaError(f"{len(text):,} characters; at most {MAX_CHARACTERS:,}")
    try:
        schema = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise SchemaError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise SchemaError(f"it is no valid JSON: {error}") from None
    return json.dumps(_Checker(schema).whole(), ensure_ascii=False, separators=(",", ":"))


class _Checker:
    """Goes once through a schema."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._count = 0

    def whole(self) -> dict[str, Any]:
        """The schema without what binds nothing. Raises SchemaError."""
        checked = self._schema(self._root, "", 0)
        if isinstance(checked, bool):
            raise SchemaError("it must be an object")
        _References(checked).check()
        return checked

    def _schema(self, schema: Any, path: str, depth: int) -> dict[str, Any] | bool:
        self._count += 1
        if self._count > MAX_SCHEMAS:
            raise SchemaError(f"it has more than {MAX_SCHEMAS:,} parts", path)
        if depth > MAX_DEPTH:
            raise SchemaError(f"it is nested more than {MAX_DEPTH} levels deep", path)
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise SchemaError("a schema is an object, true or false", path)
        kept: dict[str, Any] = {}
        for keyword, value in schema.items():
            place = _below(path, keyword)
            if keyword in _UNSUPPORTED:
                if value != _UNSUPPORTED[keyword] or value is None:
                    raise SchemaError(f"{keyword} is not supported; leave it out", place)
            elif keyword in _ONE:
                if isinstance(value, list):
                    raise SchemaError("a list of schemas is written as prefixItems", place)
                kept[keyword] = self._schema(value, place, depth + 1)
            elif keyword in _LISTS:
                kept[keyword] = [
                    self._schema(part, f"{place}[{number}]", depth + 1)
                    for number, part in enumerate(_a(list, value, place, "a list"))
                ]
                if not kept[keyword] and keyword != "prefixItems":
                    raise SchemaError("it is empty; name at least one schema", place)
            elif keyword in _MAPS:
                kept[keyword] = {
                    name: self._schema(part, _below(place, name), depth + 1)
                    for name, part in _a(dict, value, place, "an object").items()
                }
                if keyword == "patternProperties":
                    for name in kept[keyword]:
                        _pattern(name, _below(place, name))
            elif keyword in _CHECKS:
                if _CHECKS[keyword](value, place):
                    kept[keyword] = value
            elif keyword == "$ref":
                kept[keyword] = _a(str, value, place, "a text")
        _check_limits(kept, path)
        return kept


class _References:
    """Follows the references of a checked schema."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._schemas = {id(schema): path for schema, path in _all_schemas(root, "")}
        self._done: set[int] = set()

    def check(self) -> None:
        """Raises SchemaError for one that leads nowhere, or back to itself with no value in between."""
        for schema, path in _all_schemas(self._root, ""):
            self._follow(schema, path, [])

    def _follow(self, schema: Any, path: str, on_the_way: list[int]) -> None:
        if not isinstance(schema, dict) or id(schema) in self._done:
            return
        if id(schema) in on_the_way:
            raise SchemaError("it refers to itself with nothing in between, so there is no form", path)
        if len(on_the_way) > MAX_DEPTH:
            raise SchemaError(f"more than {MAX_DEPTH} references lead to one another", path)
        on_the_way.append(id(schema))
        if "$ref" in schema:
            self._follow(self._target(schema["$ref"], _below(path, "$ref")), path, on_the_way)
        for keyword in ("allOf", "anyOf", "oneOf"):
            for part in schema.get(keyword, ()):
                self._follow(part, path, on_the_way)
        on_the_way.pop()
        self._done.add(id(schema))

    def _target(self, reference: str, path: str) -> dict[str, Any] | bool:
        if reference != "#" and not reference.startswith("#/"):
            raise SchemaError("only references within the schema (#/…) are followed", path)
        found: Any = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(found):
                found = found[int(key[:9])]
            else:
                found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, bool) or id(found) in self._schemas:
            target: dict[str, Any] | bool = found
            return target
        raise SchemaError(f"{reference[:200]!r} leads to no schema; put those that are referred to below $defs", path)


def _all_schemas(schema: Any, path: str) -> Iterator[tuple[dict[str, Any], str]]:
    if not isinstance(schema, dict):
        return
    yield schema, path
    for keyword in _ONE:
        yield from _all_schemas(schema.get(keyword), _below(path, keyword))
    for keyword in _LISTS:
        for number, part in enumerate(schema.get(keyword, ())):
            yield from _all_schemas(part, f"{_below(path, keyword)}[{number}]")
    for keyword in _MAPS:
        for name, part in schema.get(keyword, {}).items():
            yield from _all_schemas(part, _below(_below(path, keyword), name))


def _check_limits(schema: Mapping[str, Any], path: str) -> None:
    """Refuses limits that exclude each other."""
    for least, most in (*_COUNTS, ("minimum", "maximum")):
        if least in schema and most in schema and schema[least] > schema[most]:
            raise SchemaError(f"{schema[least]} is more than {most}, {schema[most]}", _below(path, least))


def _type(value: Any, path: str) -> bool:
    names = value if isinstance(value, list) else [value]
    if not names:
        raise SchemaError("it is empty; name at least one type", path)
    for name in names:
        if not isinstance(name, str) or name not in _TYPES:
            raise SchemaError(f"{str(name)[:100]!r} is no type; types are {', '.join(sorted(_TYPES))}", path)
    return True


def _enum(value: Any, path: str) -> bool:
    if not _a(list, value, path, "a list"):
        raise SchemaError("it is empty; name at least one value", path)
    return True


def _required(value: Any, path: str) -> bool:
    if not all(isinstance(name, str) for name in _a(list, value, path, "a list")):
        raise SchemaError("it is a list of names", path)
    return True


def _count(value: Any, path: str) -> bool:
    # Whole numbers may be written as 4.0.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not 0 <= value <= MAX_COUNT:
        raise SchemaError(f"it must be a whole number from 0 to {MAX_COUNT:,}", path)
    return True


def _number(value: Any, path: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SchemaError("it must be a number", path)
    if path.endswith("multipleOf") and value <= 0:
        raise SchemaError("it must be more than 0", path)
    return True


def _pattern(value: Any, path: str) -> bool:
    try:
        check_regex(_a(str, value, path, "a text"))
    except RegexError as error:
        raise SchemaError(str(error), path) from None
    return True


def _format(value: Any, path: str) -> bool:
    return _a(str, value, path, "a text") in _FORMATS


def _const(value: Any, path: str) -> bool:
    return True


# Keywords with a value of their own: checks it, and tells whether it binds anything.
_CHECKS: Mapping[str, Callable[[Any, str], bool]] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "required": _required,
    "pattern": _pattern,
    "format": _format,
    **{keyword: _count for pair in _COUNTS for keyword in pair},
    **dict.fromkeys(_NUMBERS, _number),
}


def _a(kind: type, value: Any, path: str, shown: str) -> Any:
    if not isinstance(value, kind):
        raise SchemaError(f"it must be {shown}", path)
    return value


def _below(path: str, name: str) -> str:
    return f"{path}.{name[:100]}" if path else name[:100]


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON's")
