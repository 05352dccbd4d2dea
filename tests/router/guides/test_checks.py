"""Guides of every kind, in one spelling for equal forms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwenserve.router.guides.checks import Guide, GuideError, GuideKind, Region, checked, is_free, regions_guide
from qwenserve.type.v1 import guide_pb2


def test_kinds_are_those_of_the_protocol():
    """By name and number; the protocol has one more, which is never sent."""
    named = {f"GUIDE_KIND_{kind.name}": int(kind) for kind in GuideKind}

    assert dict(guide_pb2.GuideKind.items()) == {"GUIDE_KIND_UNSPECIFIED": 0, **named}


@pytest.mark.parametrize(
    ("kind", "text", "kept"),
    [
        (GuideKind.JSON_SCHEMA, '{ "title": "x", "type": "object" }', '{"type":"object"}'),
        (GuideKind.JSON_OBJECT, "", ""),
        (GuideKind.CHOICE, '["a", "b", "a"]', '["a","b"]'),
        (GuideKind.REGEX, "a+", "a+"),
        (GuideKind.GRAMMAR, 'start: "a" b\nb: /x/', 'start: "a" b\nb: /x/'),
        (GuideKind.GRAMMAR, '// c\n?start : "a"', '// c\n?start : "a"'),
    ],
)
def test_guides(kind, text, kept):
    """The text is the form and nothing else."""
    assert Guide(kind, kept) == checked(kind, text)


@pytest.mark.parametrize(
    ("kind", "text", "path", "words"),
    [
        (GuideKind.JSON_SCHEMA, '{"items": {"not": {}}}', "items.not", "not supported"),
        (GuideKind.JSON_OBJECT, "{}", "", "leave it empty"),
        (GuideKind.CHOICE, "{", "", "a list of texts"),
        (GuideKind.CHOICE, "[1]", "", "a list of texts"),
        (GuideKind.CHOICE, "[" * 50_000, "", "a list of texts"),
        (GuideKind.CHOICE, "[]", "", "0 choices"),
        (GuideKind.CHOICE, '["a", ""]', "[1]", "empty"),
        (GuideKind.CHOICE, '["' + "x" * 64_001 + '"]', "", "64,001 characters"),
        # Not even read.
        (GuideKind.CHOICE, " " * 1_200_001, "", "1,200,001 characters"),
        (GuideKind.REGIONS, " " * 1_200_001, "", "1,200,001 characters"),
        (GuideKind.REGEX, "(", "", "nothing closes"),
        (GuideKind.REGEX, "", "", "empty"),
        (GuideKind.GRAMMAR, 'root ::= "a"', "", "no rule called start"),
        (GuideKind.GRAMMAR, "x" * 64_001, "", "64,001 characters"),
    ],
)
def test_guides_that_cannot_be_followed(kind, text, path, words):
    """With the place, where there is one."""
    with pytest.raises(GuideError, match=words) as refused:
        checked(kind, text)

    assert path == refused.value.path


REGIONS: dict[str, Any] = {
    "regions": [{"begin": "<tool_call>", "kind": 5, "text": 'start: "a"', "end": "</tool_call>"}],
    "free": True,
    "least": 0,
    "most": 0,
}


def test_regions():
    made = regions_guide(
        [Region("<tool_call>", Guide(GuideKind.GRAMMAR, 'start: "a"'), "</tool_call>", "")], free=True, least=0, most=0
    )
    assert checked(GuideKind.REGIONS, json.dumps(REGIONS)) == made
    assert json.loads(made.text) == REGIONS
    other = REGIONS | {"instead": {"kind": 4, "text": "a+"}}
    assert json.loads(checked(GuideKind.REGIONS, json.dumps(other)).text) == other
    triggered = REGIONS | {"regions": [REGIONS["regions"][0] | {"trigger": "<tool"}]}
    assert json.loads(checked(GuideKind.REGIONS, json.dumps(triggered)).text) == triggered


def test_only_regions_may_leave_text_free():
    wire = guide_pb2.Guide
    for free in (False, True):
        made = checked(GuideKind.REGIONS, json.dumps(REGIONS | {"free": free, "least": 1, "most": 1}))
        assert is_free(wire(kind=guide_pb2.GUIDE_KIND_REGIONS, text=made.text)) == free
    assert not is_free(wire(kind=guide_pb2.GUIDE_KIND_JSON_SCHEMA, text='{"const":{"free":true}}'))


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"free": 1}, ""),
        ({"least": 2}, ""),
        ({"more": 2}, ""),
        ({"regions": []}, "regions"),
        ({"regions": [{}]}, "regions[0]"),
        ({"regions": [REGIONS["regions"][0] | {"begin": 3}]}, "regions[0]"),
        ({"regions": [REGIONS["regions"][0] | {"kind": 3}]}, "regions[0].kind"),
        ({"regions": [REGIONS["regions"][0] | {"begin": ""}]}, "regions[0].begin"),
        ({"regions": [REGIONS["regions"][0] | {"trigger": 3}]}, "regions[0]"),
        ({"instead": {"kind": 4}}, "instead"),
        ({"instead": {"kind": 6, "text": ""}}, "instead.kind"),
        ({"instead": {"kind": 1, "text": '{"not": {}}'}}, "instead.text.not"),
        ({"regions": [REGIONS["regions"][0] | {"trigger": "x"}]}, "regions[0].trigger"),
        ({"regions": [REGIONS["regions"][0] | {"end": "x" * 1001}]}, "regions[0].end"),
        ({"regions": [REGIONS["regions"][0] | {"kind": 1, "text": '{"not": {}}'}]}, "regions[0].text.not"),
    ],
)
def test_regions_that_are_none(changed, path):
    with pytest.raises(GuideError) as error:
        checked(GuideKind.REGIONS, json.dumps(REGIONS | changed))
    assert error.value.path == path
