"""Structural tags in both published spellings, as regions; what is more than regions is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwenserve.router.http.transport.structural_tags import regions_of
from qwenserve.runtime.errors import InvalidRequest, Unsupported

CALL = {"begin": "<f=a>", "kind": 1, "text": '{"type":"object"}', "end": "</f>"}
TAG: dict[str, Any] = {
    "begin": "<f=a>",
    "content": {"type": "json_schema", "json_schema": {"type": "object"}},
    "end": "</f>",
}
WORD = TAG | {"content": {"type": "regex", "pattern": "a+"}}
RULE = TAG | {"content": {"type": "grammar", "grammar": 'start: "a"'}, "end": ["</f>"]}
TRIGGERED: dict[str, Any] = {"type": "triggered_tags", "triggers": ["<f="], "tags": [TAG]}


def form(free: bool, least: int, most: int, *regions: dict[str, Any]) -> dict[str, Any]:
    return {"regions": list(regions), "free": free, "least": least, "most": most}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {"structures": [{"begin": "<f=a>", "schema": {"type": "object"}, "end": "</f>"}], "triggers": ["<f="]},
            form(True, 0, 0, CALL | {"trigger": "<f="}),
        ),
        ({"format": TRIGGERED}, form(True, 0, 0, CALL | {"trigger": "<f="})),
        (
            {"format": TRIGGERED | {"at_least_one": True, "stop_after_first": True}},
            form(True, 1, 1, CALL | {"trigger": "<f="}),
        ),
        ({"format": {"type": "tag", **WORD}}, form(False, 1, 1, CALL | {"kind": 4, "text": "a+"})),
        (
            {"format": {"type": "tags_with_separator", "separator": "\n", "at_least_one": True, "tags": [TAG, RULE]}},
            form(False, 1, 0, CALL, CALL | {"kind": 5, "text": 'start: "a"'}),
        ),
    ],
)
def test_both_spellings(value: Any, expected: Any) -> None:
    assert json.loads(regions_of(value, "x")) == expected
    assert json.loads(regions_of(json.dumps(value), "x")) == expected


@pytest.mark.parametrize(
    ("value", "error", "param"),
    [
        ("{", InvalidRequest, "x"),
        ([], InvalidRequest, "x"),
        ({}, InvalidRequest, "x.format"),
        ({"structures": []}, InvalidRequest, "x.structures"),
        ({"structures": [3]}, InvalidRequest, "x.structures[0]"),
        ({"structures": [{"begin": "a", "end": "b"}]}, InvalidRequest, "x.structures[0].schema"),
        ({"format": {"type": "any_text"}}, Unsupported, "x.format.type"),
        ({"format": {"type": "sequence"}}, Unsupported, "x.format.type"),
        ({"format": TRIGGERED | {"triggers": ["<g="]}}, InvalidRequest, "x.format.tags[0].begin"),
        ({"format": TRIGGERED | {"triggers": 3}}, InvalidRequest, "x.format.tags[0].begin"),
        ({"format": TRIGGERED | {"excludes": ["a"]}}, Unsupported, "x.format.excludes"),
        ({"format": {"type": "tag", **TAG, "end": ""}}, InvalidRequest, "x.format.end"),
        ({"format": {"type": "tag", **TAG, "content": {"type": "any_text"}}}, Unsupported, "x.format.content.type"),
        (
            {"format": {"type": "tag", **TAG, "content": TAG["content"] | {"style": "qwen_xml"}}},
            Unsupported,
            "x.format.content.style",
        ),
        ({"format": {"type": "tags_with_separator", "separator": ",", "tags": [TAG]}}, Unsupported, "x.format"),
    ],
)
def test_the_place_at_fault_is_named(value: Any, error: type[Exception], param: str) -> None:
    with pytest.raises(error) as refused:
        regions_of(value, "x")
    assert getattr(refused.value, "param", "") == param
