from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.text.tool_values import ParameterTypes, parse_value, to_json

INTEGER_OR_NULL = {"anyOf": [{"type": "integer"}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("text", "schema", "expected"),
    [
        ("3", {"type": "string"}, "3"),
        (" 3 ", {"type": "string"}, " 3 "),
        ("null", {"type": "string"}, "null"),
        ("3", {"type": "integer"}, 3),
        (" 3\n", {"type": "integer"}, 3),
        ("3.0", {"type": "integer"}, 3),
        ("3.5", {"type": "integer"}, "3.5"),
        ("three", {"type": "integer"}, "three"),
        ("3", {"type": "number"}, 3),
        ("-2.5e3", {"type": "number"}, -2500.0),
        ("nan", {"type": "number"}, "nan"),
        ("1e999", {"type": "number"}, "1e999"),
        ("true", {"type": "boolean"}, True),
        ("False", {"type": "boolean"}, False),
        ("yes", {"type": "boolean"}, "yes"),
        ("null", {"type": "null"}, None),
        ("None", {"type": ["string", "null"]}, None),
        ("x", {"type": ["string", "null"]}, "x"),
        ("5", INTEGER_OR_NULL, 5),
        ("null", INTEGER_OR_NULL, None),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("['a', None]", {"type": "array"}, ["a", None]),
        ("[1, 2", {"type": "array"}, "[1, 2"),
        ('{"a": {"b": 1}}', {"type": "object"}, {"a": {"b": 1}}),
        ("{'a': True}", {"type": "object"}, {"a": True}),
        ("[1]", {"type": "object"}, "[1]"),
        ("{1, 2}", {"type": "object"}, "{1, 2}"),
        ("(" * 5000, {"type": "object"}, "(" * 5000),
        ("[" * 50000, {"type": "array"}, "[" * 50000),
        ("2", {"enum": [1, 2, 3]}, 2),
        ("1", {"enum": ["1", "2"]}, "1"),
        ("3", {"type": ["integer", "string"]}, 3),
        ("7", {}, "7"),
        ("7", None, "7"),
        ("7", True, "7"),
        ("7", {"type": "unheard of"}, "7"),
        ("7", {"oneOf": [{"allOf": [{"type": "integer"}]}]}, 7),
        # Where a string is allowed, a text that a value does not give back is one.
        ("02139", {"type": ["string", "number"]}, "02139"),
        ("2139", {"type": ["string", "number"]}, 2139),
        ("02139", {"type": "integer"}, 2139),
        ("+5", {"type": ["integer", "string"]}, "+5"),
        ("3.0", {"type": ["integer", "string"]}, "3.0"),
        ("1e5", {"anyOf": [{"type": "string"}, {"type": "number"}]}, "1e5"),
        ("2.50", {"type": ["number", "string"]}, "2.50"),
        (" 3", {"type": ["integer", "string"]}, " 3"),
        ("True", {"type": ["boolean", "string"]}, "True"),
        ("true", {"type": ["boolean", "string"]}, True),
        ("[1]", {"type": ["array", "string"]}, [1]),
        # Python's integers, and digits of other scripts, are none of JSON's.
        ("1_000", {"type": "integer"}, "1_000"),
        ("1_0.5", {"type": "number"}, "1_0.5"),
        ("٣", {"type": "integer"}, "٣"),
        ("９", {"type": "number"}, "９"),
        ("0x10", {"type": "integer"}, "0x10"),
        ("infinity", {"type": "number"}, "infinity"),
        ("1e400", {"type": "integer"}, "1e400"),
        ("9" * 5000, {"type": "integer"}, "9" * 5000),
        ("[1e999]", {"type": "array"}, "[1e999]"),
        ("[NaN]", {"type": "array"}, "[NaN]"),
        ("[" + "9" * 5000 + "]", {"type": "array"}, "[" + "9" * 5000 + "]"),
        ("[1, 2,]", {"type": "array"}, [1, 2]),
        ('["a\nb"]', {"type": "array"}, ["a\nb"]),
        ("[1] [2]", {"type": "array"}, "[1] [2]"),
        ("[one]", {"type": "array"}, "[one]"),
        ("{'a': " * 50_000, {"type": "object"}, "{'a': " * 50_000),
        # Long texts are taken if they are JSON, and not repaired.
        ("[" + "1, " * 10_000 + "2]", {"type": "array"}, [1] * 10_000 + [2]),
        ("[" + "1, " * 50_000 + "2]", {"type": "array"}, "[" + "1, " * 50_000 + "2]"),
        ("[" + "1, " * 10_000 + "]", {"type": "array"}, "[" + "1, " * 10_000 + "]"),
        ("[" + "1, " * 10_000 + "NaN]", {"type": "array"}, "[" + "1, " * 10_000 + "NaN]"),
        (
            "[" * 200 + "1, " * 10_000 + "2" + "]" * 200,
            {"type": "array"},
            "[" * 200 + "1, " * 10_000 + "2" + "]" * 200,
        ),
        # Types by other names, and types that are not said.
        ("7", {"type": "float"}, 7),
        ("7.5", {"type": "Float"}, 7.5),
        ("7", {"type": "int"}, 7),
        ("[1]", {"type": "list"}, [1]),
        ('{"a": 1}', {"properties": {"a": {}}}, {"a": 1}),
        ("[1]", {"items": {}}, [1]),
        ("7", {"const": 7}, 7),
        ("null", {"type": "integer", "nullable": True}, None),
        # What a schema allows by several keywords is what all of them allow.
        ("7", {"type": "string", "anyOf": [{"minLength": 1}, {"pattern": "x"}]}, "7"),
        ("7", {"type": ["string", "integer"], "allOf": [{"type": ["integer", "null"]}]}, 7),
        ("7", {"allOf": [{"type": "number"}, {"type": "integer"}]}, 7),
        ("7.5", {"allOf": [{"type": "number"}, {"type": "integer"}]}, "7.5"),
        ("7", {"allOf": [{"type": "string"}, {"type": "integer"}]}, "7"),
        ("7", {"anyOf": [{}, {"type": "integer"}]}, "7"),
        # Odd shapes say nothing.
        ("7", {"type": None}, "7"),
        ("7", {"type": [{}]}, "7"),
        ("7", {"type": [None, "integer"]}, 7),
        ("7", {"type": {}}, "7"),
        ("7", {"enum": None}, "7"),
        ("7", {"enum": "567"}, "7"),
        ("7", {"enum": [{}, []], "type": "integer"}, 7),
        ("7", {"type": "integer", "anyOf": None, "oneOf": 5, "allOf": {}}, 7),
        ("7", {"type": "integer", "anyOf": [], "allOf": [None, 3]}, 7),
        ("7", {"type": "integer", "$ref": 5}, 7),
        ("7", [], "7"),
    ],
)
def test_values(text, schema, expected):
    """A value is what the schema asks for if it can be, and a string otherwise."""
    value = parse_value(text, schema)

    assert expected == value
    assert type(expected) is type(value)


DEFINITIONS = {
    "Point": {"type": "object", "properties": {"x": {"type": "integer"}}},
    "Size": {"enum": ["S", 40]},
    "Maybe": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
    "Loop": {"$ref": "#/$defs/Loop"},
    "Tree": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "integer"}]},
    "a/b~c d": {"type": "integer"},
    "List": [{"type": "integer"}],
    "Odd": None,
}


@pytest.mark.parametrize(
    ("text", "schema", "expected"),
    [
        ('{"x": 1}', {"$ref": "#/$defs/Point"}, {"x": 1}),
        ('{"x": 1}', {"$ref": "#/$defs/Maybe"}, {"x": 1}),
        ("null", {"$ref": "#/$defs/Maybe"}, None),
        ("None", {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}], "default": None}, None),
        ("x", {"$ref": "#/$defs/Maybe"}, "x"),
        ("40", {"$ref": "#/$defs/Size"}, 40),
        ("S", {"$ref": "#/$defs/Size"}, "S"),
        ("[1]", {"type": "array", "items": {"$ref": "#/$defs/Point"}}, [1]),
        ('{"x": 1}', {"allOf": [{"$ref": "#/$defs/Point"}], "description": "A point."}, {"x": 1}),
        ("7", {"$ref": "#/$defs/a~1b~0c%20d"}, 7),
        ("7", {"$ref": "#/$defs/List/0"}, 7),
        ('{"x": 1}', {"$ref": "#/properties/p"}, {"x": 1}),
        # What leads nowhere allows everything, and a text is the first of that.
        ("7", {"$ref": "#/$defs/Loop"}, "7"),
        ("7", {"$ref": "#/$defs/Tree"}, "7"),
        ("7", {"$ref": "#/$defs/Odd"}, "7"),
        ("7", {"$ref": "#/$defs/Missing"}, "7"),
        ("7", {"$ref": "#/$defs/List/9"}, "7"),
        ("7", {"$ref": "#/$defs/List/x"}, "7"),
        ("7", {"$ref": "https://example.com/schema"}, "7"),
        ("7", {"$ref": "#anchor", "type": "integer"}, 7),
    ],
)
def test_references(text, schema, expected):
    """They are followed within the tool's schema."""
    root = {"properties": {"p": {"$ref": "#/$defs/Point"}, "it": schema}, "$defs": DEFINITIONS}

    assert expected == ParameterTypes(root).value("it", text)


def test_a_schema_that_grows_without_end_is_given_up():
    """References that double with every level cost no more than the bound."""
    doubled = {f"D{n}": {"anyOf": [{"$ref": f"#/$defs/D{n + 1}"}] * 2} for n in range(40)}
    root = {"properties": {"it": {"$ref": "#/$defs/D0"}}, "$defs": {**doubled, "D40": {"type": "integer"}}}

    assert ParameterTypes(root).value("it", "7") == "7"


@pytest.mark.parametrize(
    "schema", [None, "x", [], {"properties": None}, {"properties": []}, {"properties": {"it": None}}]
)
def test_schemas_that_are_none(schema):
    """A tool may describe nothing at all."""
    types = ParameterTypes(schema)

    assert types.only_text("it")
    assert types.value("it", "7") == "7"


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "integer", "object", "#/$defs/a", "x"]),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "properties", "items", "a"]
            ),
            inner,
            max_size=4,
        ),
        max_leaves=15,
    ),
    st.sampled_from(["7", "null", "[1]", "{'a': 1}", "x", ""]),
)
def test_any_schema_will_do(schema, text):
    """Whatever a client sends, the value is the text or one that JSON can hold."""
    for root in (schema, {"properties": {"it": schema}, "$defs": {"a": schema}}):
        value = ParameterTypes(root).value("it", text)

        assert value == text or json.loads(to_json(value)) == value
