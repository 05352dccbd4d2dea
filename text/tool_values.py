"""Values of XML-style tool calls: text in, JSON value out, as the tool's schema asks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from qwenserve.text.json_repair import MAX_DEPTH, MAX_READ, MAX_REPAIRED, JsonRepair, without_surrogates
from qwenserve.text.schema_types import ALL, allowed_types, enum_texts

_NOT = object()

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
# Longer ones are texts: no number has so many digits that count.
_MAX_NUMBER = 300
# Up to here floating-point numbers hold every integer.
_EXACT = 2**53
_STRING = frozenset({"string"})


class ParameterTypes:
    """What the schema of a tool says of its parameters. Each is looked up when it is met."""

    __slots__ = ("_known", "_properties", "_schema")

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        self._properties: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
        self._known: dict[str, tuple[frozenset[str], frozenset[str]]] = {}

    @property
    def named(self) -> bool:
        """Whether the schema names parameters at all."""
        return bool(self._properties)

    def describes(self, name: str) -> bool:
        """Whether the schema knows a parameter of this name; any, where it names none."""
        return name in self._properties or not self._properties

    def only_text(self, name: str) -> bool:
        """Whether a value of this parameter is a string whatever it is."""
        return self._of(name)[0] == _STRING

    def value(self, name: str, text: str) -> Any:
        """The value that `text` stands for.

        A string stays as it is. Of several allowed types the narrowest that fits is taken, but where a string is
        allowed only for a text that the value gives back: `02139` is no number there. A text that fits no type, or a
        parameter that the schema does not describe, stays a string: the tool can then say what is wrong with it.
        """
        types, texts = self._of(name)
        if types == _STRING or text in texts:
            return text
        bare = text.strip()
        for kind, read in _NARROWEST_FIRST.items():
            if kind in types:
                value = read(bare)
                if value is not _NOT and ("string" not in types or _gives_back(value, text)):
                    return value
        return text

    def _of(self, name: str) -> tuple[frozenset[str], frozenset[str]]:
        known = self._known.get(name)
        if known is None:
            schema = self._properties.get(name)
            types = allowed_types(schema, self._schema)
            # A parameter of any type may well mean the text as it stands.
            known = (_STRING, frozenset()) if types == ALL else (_distinct(types), enum_texts(schema, self._schema))
            self._known[name] = known
        return known


def parse_value(text: str, schema: Any) -> Any:
    """The value that `text` stands for under the schema of one parameter; see `ParameterTypes.value`."""
    return ParameterTypes({"properties": {"": schema}}).value("", text)


def _distinct(types: frozenset[str]) -> frozenset[str]:
    # Numbers read integers as well, and leave `3.0` the number that it is.
    return types - {"integer"} if "number" in types else types


def to_json(value: Any) -> str:
    """JSON text of a value; text as it is, not as escapes."""
    return without_surrogates(json.dumps(value, ensure_ascii=False))


def _gives_back(value: Any, text: str) -> bool:
    if value is None or isinstance(value, (list, dict)):
        return True  # spelled in more than one way, but in none that is meant as a text
    return json.dumps(value) == text


def _null(text: str) -> Any:
    return None if text.lower() in ("null", "none") else _NOT


def _boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text.lower(), _NOT)


def _integer(text: str) -> Any:
    if len(text) > _MAX_NUMBER:
        return _NOT
    if _INTEGER.fullmatch(text):
        return int(text)
    value = _number(text)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT else _NOT


def _number(text: str) -> Any:
    if len(text) > _MAX_NUMBER or not _NUMBER.fullmatch(text):
        return _NOT
    if _INTEGER.fullmatch(text):
        return int(text)
    value = float(text)
    # JSON has no word for infinity.
    return value if math.isfinite(value) else _NOT


def _array(text: str) -> Any:
    return _container(text, "[")


def _object(text: str) -> Any:
    return _container(text, "{")


def _container(text: str, opening: str) -> Any:
    if not text.startswith(opening) or len(text) > MAX_READ:
        return _NOT
    if len(text) > MAX_REPAIRED:
        return _long_container(text)
    # Models also write Python's spelling (single quotes, True, None), raw line breaks and commas at the end.
    repair = JsonRepair()
    valid = repair.push(text)
    if repair.guessed or not repair.ended or repair.rest.strip():
        return _NOT
    try:
        return json.loads(valid, parse_float=_finite, parse_constant=_refuse)
    except ValueError:
        return _NOT


def _long_container(text: str) -> Any:
    """A container that is JSON already, and not nested deeper than a repaired one would be."""
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NOT
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level if isinstance(each, (list, dict)) for inner in _inside(each)]
        if not level:
            return value
    return _NOT


def _inside(container: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"JSON cannot hold {text}")


_NARROWEST_FIRST: dict[str, Callable[[str], Any]] = {
    "null": _null,
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "array": _array,
    "object": _object,
}
