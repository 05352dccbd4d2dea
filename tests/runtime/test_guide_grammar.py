"""Guides as grammars: what is closed, what is translated, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llguidance
import pytest

from qwenserve.runtime.guide_grammar import (
    CHOICE,
    GRAMMAR,
    JSON_SCHEMA,
    REGEX,
    REGIONS,
    closed,
    lark_of,
    regions_grammar,
    why_not,
)
from qwenserve.worker.engine_interface import Guide, GuideKind
from qwenserve.worker.guides.matcher import GuideVocabulary
from qwenserve.worker.guides.regions import special_ids_of

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
        (REGIONS, '{"regions":[{"begin":"x","kind":99,"text":"","end":"y"}],"free":true,"least":0,"most":0}'),
        (99, ""),
    ],
)
def test_what_is_wrong_is_said(kind: int, text: str) -> None:
    assert why_not(kind, text, {"<x>": 7}, (1,))


FREE = {"free": True, "least": 0, "most": 0}
TINY = Path(__file__).parents[2] / "models" / "qwen3-tiny"
OURS = GuideVocabulary(json.loads((TINY / "tokenizer.json").read_text()), 4096, (4070, 4072))
NAMED = special_ids_of(TINY)
# As engines of others read a model's own file.
OTHERS = llguidance.LLTokenizer((TINY / "tokenizer.json").read_text())
CALL = (
    '{"type":"object","properties":{"city":{"type":"string","maxLength":9,"description":"root ::= x"}},'
    '"required":["city"]}'
)
CALLED = '<tool_call>\n{"name": "f", "arguments": {"city": "Oslo"}}\n</tool_call>'


def regions(*, free: bool, least: int, most: int) -> str:
    begin = '<tool_call>\n{"name": "f", "arguments": '
    region = {"begin": begin, "kind": JSON_SCHEMA, "text": CALL, "end": "}\n</tool_call>", "trigger": "<tool_call>"}
    listed = [region, region | {"begin": begin.replace('"f"', '"g"')}]
    return json.dumps({"regions": listed, "free": free, "least": least, "most": most})


@pytest.mark.parametrize("of_others", [False, True])
@pytest.mark.parametrize(
    ("form", "text", "whole"),
    [
        ({"free": False, "least": 1, "most": 0}, CALLED, True),
        ({"free": False, "least": 1, "most": 0}, f"{CALLED}\n{CALLED}", True),
        ({"free": False, "least": 1, "most": 1}, f"{CALLED}\n{CALLED}", False),
        ({"free": False, "least": 1, "most": 0}, "Hello", False),
        ({"free": True, "least": 0, "most": 0}, "<think>\nHello\n</think>\n\nI say <b>.", True),
        ({"free": True, "least": 0, "most": 0}, f"<think>\nHello\n</think>\n{CALLED}\n{CALLED} and more", True),
        ({"free": True, "least": 0, "most": 0}, 'Well: <tool_call>\n{"name": "h"', False),
        ({"free": True, "least": 0, "most": 0}, CALLED.replace("city", "town"), False),
        ({"free": True, "least": 1, "most": 1}, f"So: {CALLED}", True),
        ({"free": True, "least": 1, "most": 1}, f"So: {CALLED}.", False),
        ({"free": True, "least": 1, "most": 0}, "So", False),
    ],
)
def test_regions_are_followed_by_engines_of_others_too(
    form: dict[str, Any], text: str, whole: bool, of_others: bool
) -> None:
    """vLLM, SGLang and TensorRT-LLM are told of regions in Lark; the same texts pass as with the worker's own check."""
    ids = OTHERS.tokenize_str(text)
    if of_others:
        grammar = llguidance.grammar_from(
            "grammar", regions_grammar(regions(**form), NAMED, (4070, 4072))
        )  # as vLLM and SGLang read it
        assert llguidance.LLMatcher.validate_grammar(grammar, None) == ""
        matcher = llguidance.LLMatcher(OTHERS, grammar, log_level=0)
        assert (matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()) == whole
    else:
        own = OURS.matcher(Guide(GuideKind.REGIONS, regions(**form)))
        assert (all(map(own.take, ids)) and own.may_end) == whole


def test_a_trigger_may_be_any_text() -> None:
    """What begins with no special token is found in the text, and its trigger alone begins it."""
    region = {"begin": "<f=a>", "kind": REGEX, "text": "[0-9/]{1,3}", "end": "</f>", "trigger": "<f="}
    guide = Guide(GuideKind.REGIONS, json.dumps({"regions": [region, region | {"begin": "<f=b>"}], **FREE}))
    for text, taken in (("a < b <f=a>1/2</f> c <f=b>3</f>", True), ("so <f=c>", False), ("so <f=a>x", False)):
        matcher = OURS.matcher(guide)
        assert (all(map(matcher.take, OTHERS.tokenize_str(text))) and matcher.may_end) == taken
