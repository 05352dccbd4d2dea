"""Guides as grammars: what is closed, what is translated, and what is wrong with one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwenserve.runtime.guide_grammar import CHOICE, GRAMMAR, JSON_SCHEMA, REGEX, REGIONS, closed, lark_of, why_not

A = {"type": "object", "properties": {"a": {}}}
CLOSED_A = {**A, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (A, CLOSED_A),
        ({**A, "additionalProperties": True}, {**A, "additionalProperties": True}),
        ({"type": "object"}, {"type": "object"}),
        ({"items": A}, {"items": CLOSED_A}),
        ({"anyOf": [A, {"type": "null"}]}, {"anyOf": [CLOSED_A, {"type": "null"}]}),
        ({"prefixItems": [A]}, {"prefixItems": [CLOSED_A], "items": False}),
        (
            {"$defs": {"properties": A}, "$ref": "#/$defs/properties"},
            {"$defs": {"properties": CLOSED_A}, "$ref": "#/$defs/properties"},
        ),
        ({"const": A}, {"const": A}),
        ({"properties": {"const": A}}, {"properties": {"const": CLOSED_A}, "additionalProperties": False}),
        # Where names stand in several places, nothing is.
        ({"allOf": [A, A]}, {"allOf": [A, A]}),
        ({**A, "$ref": "#/$defs/B"}, {**A, "$ref": "#/$defs/B"}),
        ({**A, "anyOf": [{"required": ["a"]}]}, {**A, "anyOf": [{"required": ["a"]}]}),
        ({**A, "patternProperties": {"^x": {}}}, {**A, "patternProperties": {"^x": {}}}),
        ({**A, "required": ["b"]}, {**A, "required": ["b"]}),
    ],
)
def test_objects_are_closed_where_that_is_meant(schema: Any, expected: Any) -> None:
    before = json.dumps(schema)
    assert closed(schema) == expected
    assert json.dumps(schema) == before


def test_ebnf_is_translated_and_lark_left_alone() -> None:
    assert lark_of('start: "a"') == 'start: "a"'
    assert why_not(GRAMMAR, lark_of('root ::= "a" item*\nitem ::= [0-9]'), {}, ()) == ""
    with pytest.raises(ValueError, match="cannot be read"):
        lark_of("root ::= (")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (REGEX, "a(?=b)"),
        (GRAMMAR, "start: nothing"),
        (JSON_SCHEMA, '{"allOf":[{"type":"string"},{"type":"null"}]}'),
        (CHOICE, "no list"),
        (REGIONS, '{"regions":[{"begin":"x","kind":1,"text":"{}","end":"y"}],"free":true,"least":0,"most":0}'),
        (99, ""),
    ],
)
def test_what_is_wrong_is_said(kind: int, text: str) -> None:
    assert why_not(kind, text, {"<x>": 7}, (1,))
