"""Schemas drawn at random from the keywords that people use, as libraries and people write them."""

from __future__ import annotations

import random
from typing import Any

DIALECTS = ("http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema")
NAMES = (
    *("name", "age", "city", "country", "price", "colour", "size", "tags", "items", "parts", "notes", "active"),
    *("ratio", "level", "kind", "status", "email", "start", "end", "count", "title", "score", "owner", "address"),
)
WORDS = ("red", "green", "blue", "small", "large", "open", "closed", "north", "south", "bread", "milk")


def schema(seed: int) -> dict[str, Any]:
    """Returns the schema of a number: an object with 1 to 4 properties, at most three levels deep."""
    rng = random.Random(seed)
    definitions: dict[str, Any] = {}
    made = _object(rng, 0, definitions)
    if rng.random() < 0.5:
        made["$schema"] = rng.choice(DIALECTS)
    if rng.random() < 0.5:
        made["title"] = rng.choice(NAMES).title()
    if definitions:
        made["$defs"] = definitions
    return made


def _object(rng: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randint(1, 4))
    made: dict[str, Any] = {
        "type": "object",
        "properties": {name: _value(rng, depth + 1, definitions) for name in names},
        "required": [name for name in names if rng.random() < 0.8],
    }
    if rng.random() < 0.8:
        made["additionalProperties"] = False
    return made


def _value(rng: random.Random, depth: int, definitions: dict[str, Any]) -> dict[str, Any]:
    kind = rng.choice(_LEAVES if depth > 2 else (*_LEAVES, *_NESTED))
    made: dict[str, Any]
    if kind == "object":
        made = _object(rng, depth, definitions)
    elif kind == "array":
        made = {"type": "array", "items": _value(rng, depth + 1, definitions), "maxItems": rng.randint(1, 4)}
        if rng.random() < 0.5:
            made["minItems"] = 1
    elif kind == "tuple":
        made = {"type": "array", "prefixItems": [_leaf(rng) for _ in range(2)], "items": False, "minItems": 2}
    elif kind == "any":
        made = {"anyOf": [_leaf(rng), {"type": "null"}]}
    elif kind == "reference":
        name = f"Shared{len(definitions)}"
        definitions[name] = _leaf(rng)
        made = {"$ref": f"#/$defs/{name}"}
    else:
        made = _leaf(rng)
    if rng.random() < 0.3:
        made["description"] = rng.choice(NAMES)
    return made


_NESTED = ("object", "array", "tuple", "any", "reference")
_LEAVES = ("leaf", "leaf", "leaf")


def _leaf(rng: random.Random) -> dict[str, Any]:
    leaves: tuple[dict[str, Any], ...] = (
        {"type": "string"},
        {"type": "string", "minLength": 2, "maxLength": rng.randint(3, 30)},
        {"type": "string", "enum": rng.sample(WORDS, 3)},
        {"type": "string", "pattern": rng.choice(("^[a-z]{2,8}$", "^[A-Z][a-z]+$", "^\\d{3}-\\d{4}$"))},
        {"type": "string", "format": rng.choice(("date", "uuid", "ipv4", "time", "email"))},
        {"type": "integer"},
        {"type": "integer", "minimum": rng.randint(-5, 5), "maximum": rng.randint(6, 5000)},
        {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 1000},
        {"type": "number"},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "boolean"},
        {"type": ["string", "null"]},
        {"const": rng.choice(WORDS)},
        {"enum": [1, "two", None, True]},
    )
    return dict(rng.choice(leaves))
