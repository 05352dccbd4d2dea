"""Schemas are checked whole before an engine sees them, and errors name the place."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.router.guides.json_schema import MAX_SCHEMAS, SchemaError, prepared

TREE = {
    "$defs": {"node": {"type": "object", "properties": {"left": {"$ref": "#/$defs/node"}}, "required": []}},
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "kept"),
    [
        ({}, {}),
        ({"type": "object", "title": "T", "description": "d", "$schema": "x", "default": {}}, {"type": "object"}),
        ({"type": ["string", "null"], "examples": [1], "strict": True}, {"type": ["string", "null"]}),
        # Names of properties are no keywords, and values are nobody's schema.
        (
            {"properties": {"title": {"title": "x", "type": "string"}, "not": True}},
            {"properties": {"title": {"type": "string"}, "not": True}},
        ),
        ({"enum": [{"title": "x"}], "const": {"title": "x"}}, {"enum": [{"title": "x"}], "const": {"title": "x"}}),
        (
            {"items": {"title": "x"}, "prefixItems": [{"type": "null"}]},
            {"items": {}, "prefixItems": [{"type": "null"}]},
        ),
        ({"uniqueItems": False, "unevaluatedProperties": True, "dependencies": {}}, {}),
        ({"format": "date"}, {"format": "date"}),
        ({"format": "path"}, {}),
        ({"minLength": 1.0, "maxLength": 2, "minimum": -1.5, "maximum": 3}, None),
        ({"pattern": "^[a-z]{2,5}$", "patternProperties": {"^x-": {}}, "additionalProperties": False}, None),
        (TREE, None),
        ({"anyOf": [{"$ref": "#/definitions/a~1b"}], "definitions": {"a/b": {"type": "null"}}}, None),
        ({"allOf": [{"$ref": "#/allOf/1"}, {"type": "null"}]}, None),
        ({"properties": {"more": {"$ref": "#"}}}, None),
    ],
)
def test_schemas_that_can_be_followed(schema, kept):
    """What binds nothing goes; all else stays, in its order."""
    assert json.dumps(schema if kept is None else kept, separators=(",", ":")) == prepared(json.dumps(schema))


def test_text_stays_text():
    """Names and values in any script."""
    assert prepared('{"enum": ["天气", "\\u00e9"]}') == '{"enum":["天气","é"]}'


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "path", "words"),
    [
        ([], "", "a schema is an object"),
        (True, "", "it must be an object"),
        ({"properties": {"a": {"not": {}}}}, "properties.a.not", "not is not supported"),
        ({"properties": {"a": {"uniqueItems": True}}}, "properties.a.uniqueItems", "not supported"),
        ({"x-guidance": {"lenient": True}}, "x-guidance", "not supported"),
        ({"if": None}, "if", "not supported"),
        ({"anyOf": [{}, {"contains": {}}]}, "anyOf[1].contains", "not supported"),
        ({"items": [{}]}, "items", "prefixItems"),
        ({"anyOf": []}, "anyOf", "empty"),
        ({"anyOf": {}}, "anyOf", "must be a list"),
        ({"properties": []}, "properties", "must be an object"),
        ({"properties": {"a": 5}}, "properties.a", "a schema is an object"),
        ({"type": "text"}, "type", "'text' is no type"),
        ({"type": [{}]}, "type", "is no type"),
        ({"type": []}, "type", "empty"),
        ({"enum": []}, "enum", "empty"),
        ({"enum": None}, "enum", "must be a list"),
        ({"required": [1]}, "required", "list of names"),
        ({"minLength": -1}, "minLength", "whole number"),
        ({"maxItems": 10_001}, "maxItems", "whole number"),
        ({"maxItems": True}, "maxItems", "whole number"),
        ({"minItems": 3, "maxItems": 2}, "minItems", "3 is more than maxItems, 2"),
        ({"items": {"minimum": 3, "maximum": 2}}, "items.minimum", "more than maximum"),
        ({"minimum": "3"}, "minimum", "must be a number"),
        ({"exclusiveMinimum": True}, "exclusiveMinimum", "must be a number"),
        ({"multipleOf": 0}, "multipleOf", "more than 0"),
        ({"properties": {"a": {"pattern": "(?=x)"}}}, "properties.a.pattern", "look-around"),
        ({"patternProperties": {"(a": {}}}, "patternProperties.(a", "nothing closes"),
        ({"$ref": 5}, "$ref", "must be a text"),
        ({"$ref": "https://example.com/s"}, "$ref", "within the schema"),
        ({"properties": {"a": {"$ref": "#/$defs/no"}}}, "properties.a.$ref", "leads to no schema"),
        ({"$ref": "#/components/a", "components": {"a": {"not": {}}}}, "$ref", "leads to no schema"),
        ({"$ref": "#/properties", "properties": {"type": {}}}, "$ref", "leads to no schema"),
        ({"$ref": "#"}, "", "refers to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "", "refers to itself"),
        ({"properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}}, "properties.x", "itself"),
        (nested(100), ".".join(["items"] * 65), "levels deep"),
        ({"anyOf": [{}] * (MAX_SCHEMAS + 1)}, f"anyOf[{MAX_SCHEMAS - 1}]", "more than 5,000 parts"),
    ],
)
def test_schemas_that_cannot(schema, path, words):
    """The path is that of the fault."""
    with pytest.raises(SchemaError, match=re.escape(words)) as refused:
        prepared(json.dumps(schema))

    assert path == refused.value.path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no valid JSON"),
        ('{"minimum": NaN}', "NaN"),
        ("[" * 50_000, "levels deep"),
        (" " * 256_001, "256,001 characters"),
    ],
)
def test_texts_that_are_no_schema(text, words):
    """Refused before anything is made of them."""
    with pytest.raises(SchemaError, match=words):
        prepared(text)


KEYWORDS = st.sampled_from(
    [
        "type",
        "enum",
        "$ref",
        "$defs",
        "anyOf",
        "allOf",
        "properties",
        "items",
        "required",
        "minItems",
        "pattern",
        "a",
        "not",
    ]
)
SCHEMAS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["string", "object", "#/$defs/a", "#", "#/anyOf/0", "(", "a*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS, inner, max_size=4),
    max_leaves=20,
)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(SCHEMAS)
def test_any_schema_is_taken_or_refused(schema):
    """Never another error; and what was taken is taken again as it is."""
    try:
        once = prepared(json.dumps(schema))
    except SchemaError:
        return

    assert once == prepared(once)


def test_references_that_meet_again_and_again_are_followed_once():
    """Twice as many ways with every level are no more work."""
    doubled = {f"D{n}": {"anyOf": [{"$ref": f"#/$defs/D{n + 1}"}] * 2} for n in range(25)}
    schema = {"$ref": "#/$defs/D0", "$defs": {**doubled, "D25": {"type": "null"}}}

    assert "D25" in prepared(json.dumps(schema))
