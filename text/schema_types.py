"""Which types of JSON values a schema allows, as JSON Schema means it, as far as types go.

Schemas are what clients send: any part may be null or of an odd shape. What cannot be read allows everything, as an
empty schema does; so does what would take long to find out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

ALL = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
# Types as other languages call them, which people write into schemas.
_ALIASES = {
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "str": "string",
    "text": "string",
    "list": "array",
    "tuple": "array",
    "dict": "object",
    "map": "object",
    "none": "null",
}
# Most schemas that are read for one parameter; those behind references count each time they are met.
_MOST_STEPS = 1_000
_MOST_LEVELS = 50


def allowed_types(schema: Any, root: Any) -> frozenset[str]:
    """The types that `schema` allows; `ALL` where it says nothing. References are looked up in `root`.

    An integer is a number as well: where numbers are allowed, so are integers.
    """
    return _Reader(root).types(schema, 0)


def enum_texts(schema: Any, root: Any) -> frozenset[str]:
    """The texts that a schema lists as its values."""
    found: set[str] = set()
    for part in _Reader(root).alternatives(schema, 0):
        values = part.get("enum")
        listed = list(values) if isinstance(values, list) else []
        found.update(value for value in (*listed, part.get("const")) if isinstance(value, str))
    return frozenset(found)


class _Reader:
    """Looks at the schemas of one parameter."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0

    def types(self, schema: Any, level: int) -> frozenset[str]:
        """See `allowed_types`."""
        self._steps += 1
        if not isinstance(schema, Mapping) or level > _MOST_LEVELS or self._steps > _MOST_STEPS:
            return ALL
        allowed = _declared(schema)
        reference = schema.get("$ref")
        if isinstance(reference, str):
            allowed &= self.types(self._found(reference), level + 1)
        every = schema.get("allOf")
        for part in every if isinstance(every, list) else ():
            allowed &= self.types(part, level + 1)
        for keyword in ("anyOf", "oneOf"):
            any_of = schema.get(keyword)
            if isinstance(any_of, list) and any_of:
                allowed &= frozenset[str]().union(*(self.types(part, level + 1) for part in any_of))
        if schema.get("nullable") is True:  # OpenAPI's
            allowed |= {"null"}
        # A schema that nothing fits was not meant so.
        return allowed or ALL

    def alternatives(self, schema: Any, level: int) -> Iterator[Mapping[str, Any]]:
        """The schema and all that it is put together of."""
        self._steps += 1
        if not isinstance(schema, Mapping) or level > _MOST_LEVELS or self._steps > _MOST_STEPS:
            return
        yield schema
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield from self.alternatives(self._found(reference), level + 1)
        for keyword in ("allOf", "anyOf", "oneOf"):
            parts = schema.get(keyword)
            for part in parts if isinstance(parts, list) else ():
                yield from self.alternatives(part, level + 1)

    def _found(self, reference: str) -> Any:
        """What a reference within the schema points to; None, which allows everything, where nothing is there."""
        if reference != "#" and not reference.startswith("#/"):
            return None  # an anchor, or another document
        place = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(place, Mapping):
                place = place.get(key)
            elif isinstance(place, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(place):
                place = place[int(key[:9])]
            else:
                return None
        return place


def _declared(schema: Mapping[str, Any]) -> frozenset[str]:
    """What the schema's own keywords say of types."""
    declared = schema.get("type")
    names = declared if isinstance(declared, list) else [declared]
    known = {_ALIASES.get(name.lower(), name.lower()) for name in names if isinstance(name, str)} & ALL
    if not known:
        known = _implied(schema)
    if "number" in known:
        known.add("integer")
    return frozenset(known) or ALL


def _implied(schema: Mapping[str, Any]) -> set[str]:
    values = schema.get("enum")
    if isinstance(values, list) and values:
        return {_type_of(value) for value in values}
    if schema.get("const") is not None:
        return {_type_of(schema["const"])}
    # Strictly these keywords allow other types as well, but a schema that leaves the type out means this one.
    if isinstance(schema.get("properties"), Mapping):
        return {"object"}
    return {"array"} if isinstance(schema.get("items"), Mapping) else set()


def _type_of(value: Any) -> str:
    for kind, cls in (("boolean", bool), ("integer", int), ("number", float), ("string", str), ("array", list)):
        if isinstance(value, cls):
            return kind
    return "null" if value is None else "object"
