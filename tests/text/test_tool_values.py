from __future__ import annotations

import pytest

from qwenserve.text.tool_values import parse_value

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
    ],
)
def test_values(text, schema, expected):
    """A value is what the schema asks for if it can be, and a string otherwise."""
    value = parse_value(text, schema)

    assert expected == value
    assert type(expected) is type(value)
