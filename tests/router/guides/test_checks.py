"""Guides of every kind, in one spelling for equal forms."""

from __future__ import annotations

import pytest

from qwenserve.router.guides.checks import Guide, GuideError, GuideKind, Region, checked, region
from qwenserve.type.v1 import guide_pb2

ANY = Guide(GuideKind.JSON_OBJECT, "")


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


def test_regions():
    """A part of an answer between two texts; without them there is no part."""
    assert Region("<tool_call>", ANY, "</tool_call>") == region("<tool_call>", ANY, "</tool_call>")
    for trigger, end, path in (("", "x", "trigger"), ("x", "", "end"), ("x" * 1001, "x", "trigger")):
        with pytest.raises(GuideError) as refused:
            region(trigger, ANY, end)
        assert path == refused.value.path
