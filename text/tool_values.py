"""Values of XML-style tool calls: text in, JSON value out, as the tool's schema asks."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

_NOT = object()


def parse_value(text: str, schema: Any) -> Any:
    """The value that `text` stands for under a JSON schema.

    A string stays as it is. Of several allowed types the narrowest that fits is taken. A text that fits none, or a
    parameter that the schema does not describe, stays a string: the tool can then say what is wrong with it.
    """
    types = _types(schema)
    if isinstance(schema, Mapping) and text in schema.get("enum", ()):
        return text
    for kind, read in _NARROWEST_FIRST.items():
        if kind in types:
            value = read(text.strip())
            if value is not _NOT:
                return value
    return text


def _types(schema: Any) -> set[str]:
    if not isinstance(schema, Mapping):
        return set()
    declared = schema.get("type")
    types = {declared} if isinstance(declared, str) else set(declared or ())
    for choice in ("anyOf", "oneOf", "allOf"):
        for alternative in schema.get(choice, ()):
            types |= _types(alternative)
    if not types:
        types = {_type_of(value) for value in schema.get("enum", ())}
    return types


def _type_of(value: Any) -> str:
    for kind, cls in (("boolean", bool), ("integer", int), ("number", float), ("string", str), ("array", list)):
        if isinstance(value, cls):
            return kind
    return "null" if value is None else "object"


def _null(text: str) -> Any:
    return None if text.lower() in ("null", "none") else _NOT


def _boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text.lower(), _NOT)


def _integer(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        value = _number(text)
        return int(value) if isinstance(value, float) and value.is_integer() else _NOT


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return _NOT
    # JSON has no words for these.
    return value if math.isfinite(value) else _NOT


def _array(text: str) -> Any:
    return _container(text, list)


def _object(text: str) -> Any:
    return _container(text, dict)


def _container(text: str, cls: type) -> Any:
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        # Models also write Python's spelling: single quotes, True, None.
        try:
            value = ast.literal_eval(text)
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return _NOT
    return value if isinstance(value, cls) else _NOT


_NARROWEST_FIRST: dict[str, Callable[[str], Any]] = {
    "null": _null,
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "array": _array,
    "object": _object,
}
