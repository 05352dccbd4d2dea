"""Answers as models write them, and what becomes of them however their ids are split."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from qwenserve.text.assets import ModelAssets
from qwenserve.text.events import Content, Reasoning, ToolCallArguments, ToolCallStart
from qwenserve.text.pipeline import AnswerPipeline, CompletionPipeline, PipelineSettings
from qwenserve.text.tool_calls import tool_schemas
from tests.text.folding import Answer, Call, every_way, fold, run

TOOLS = tool_schemas(
    [
        {
            "type": "function",
            "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}},
        },
        {
            "type": "function",
            "function": {
                "name": "add",
                "parameters": {"properties": {"a": {"type": "integer"}, "b": {"type": "number"}}},
            },
        },
        {"type": "function", "function": {"name": "open", "parameters": None}},
        {"name": "typed", "parameters": {"properties": {"o": {"type": "array"}}}},
    ]
)


def answer(assets: ModelAssets, text: str, *, reasoning: bool = False, **settings: Any) -> Answer:
    given = PipelineSettings(eos_token_ids=assets.eos_token_ids, **settings)
    return every_way(
        lambda: AnswerPipeline(assets.tokenizer, given, starts_in_reasoning=reasoning), assets.tokenizer.encode(text)
    )


REASONING = {
    "usual form": ("<think>\nABC\n</think>\n\nXYZ", Answer("XYZ", "ABC")),
    "no newlines": ("<think>ABC</think>XYZ", Answer("XYZ", "ABC")),
    "newlines inside stay": ("<think>\n\nA\n\nB\n\n</think>\n\nX\n\nY\n", Answer("X\n\nY\n", "A\n\nB")),
    # Where punctuation and newlines are one token, a part of it is text and a part is held.
    "held within a token": (
        "<think>\nOne.\n\nTwo:\n</think>\n\nOne.\n\nTwo:\nThree.\n",
        Answer("One.\n\nTwo:\nThree.\n", "One.\n\nTwo:"),
    ),
    "spaces stay": ("<think>\n A \n</think>\n\n  X", Answer("  X", " A ")),
    "empty thought": ("<think>\n\n</think>\n\nXYZ", Answer("XYZ")),
    "no thought": ("\nXYZ", Answer("\nXYZ")),
    "cut inside": ("<think>\nABC\n", Answer("", "ABC")),
    "only opened": ("<think>\n", Answer()),
    "nothing": ("", Answer()),
    "end id has no text": ("<think>\nA\n</think>\n\nX<|im_end|>", Answer("X", "A")),
    "chinese and emoji": ("<think>\n用户👩‍👩‍👧。\n</think>\n\n你好🌦️！", Answer("你好🌦️！", "用户👩‍👩‍👧。")),
    "opened inside a thought": ("<think>\nA <think> B\n</think>\n\nX", Answer("X", "A <think> B")),
    "closed without opening": ("A</think>\n\nB", Answer("A</think>\n\nB")),
    "two thoughts": ("<think>A</think>X<think>B</think>Y", Answer("XY", "AB")),
    "a call in a thought is none": (
        '<think>\n<tool_call>\n{"name": "weather"}\n</tool_call>\n</think>\n\nX',
        Answer("X", '<tool_call>\n{"name": "weather"}\n</tool_call>'),
    ),
}


@pytest.mark.parametrize("name", REASONING)
def test_reasoning(assets, name):
    """Thoughts and content come apart at their markers, without the newlines of the form."""
    text, expected = REASONING[name]

    assert expected == answer(assets, text, parse_tools="hermes", tools=TOOLS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ABC\n</think>\n\nXYZ", Answer("XYZ", "ABC")),
        ("<think>\nABC\n</think>\n\nXYZ", Answer("XYZ", "ABC")),
        ("ABC", Answer("", "ABC")),
        ("\n</think>\n\nXYZ", Answer("XYZ")),
    ],
)
def test_reasoning_that_the_prompt_opened(assets, text, expected):
    """An answer may begin inside its thought, also where the model opens it once more."""
    assert expected == answer(assets, text, reasoning=True)


@pytest.mark.parametrize(
    ("text", "reasoning", "expected"),
    [
        ("<think>\nABC\n\n</think>\n\nXYZ", False, "<think>\nABC\n\n</think>\n\nXYZ"),
        ("ABC\n</think>\n\nXYZ", True, "<think>\nABC\n</think>\n\nXYZ"),
        ("ABC", True, "<think>\nABC"),
    ],
)
def test_reasoning_left_in_the_content(assets, text, reasoning, expected):
    """Unseparated thoughts stay in the content between their tags, and are still counted."""
    assert Answer(expected) == answer(assets, text, reasoning=reasoning, separate_reasoning=False)


def test_reasoning_tokens_exclude_the_markers(assets):
    """The tokens between the markers are the reasoning's."""
    text = "A thought of some words."
    settings = PipelineSettings(eos_token_ids=assets.eos_token_ids)
    pipeline = AnswerPipeline(assets.tokenizer, settings, starts_in_reasoning=False)
    run(pipeline, [assets.tokenizer.encode(f"<think>{text}</think>X")])

    assert len(assets.tokenizer.encode(text)) == pipeline.reasoning_tokens


STOPS = {
    "in the middle": ("one STOP two", ("STOP",), Answer("one ", stop_string="STOP")),
    "first of several": ("a END b STOP", ("STOP", "END"), Answer("a ", stop_string="END")),
    "ends first wins": ("abcdef", ("bcde", "cd"), Answer("ab", stop_string="cd")),
    "longest of those that end together": ("abcdef", ("cd", "bcd"), Answer("a", stop_string="bcd")),
    "only a beginning": ("one STO", ("STOP",), Answer("one STO")),
    "beginning again": ("aab aaab", ("aaab",), Answer("aab ", stop_string="aaab")),
    "across characters": ("你好世界。", ("世界",), Answer("你好", stop_string="世界")),
    "newlines": ("a\nb\n\nc", ("\n\n",), Answer("a\nb", stop_string="\n\n")),
    "at once": ("STOP", ("STOP",), Answer(stop_string="STOP")),
    "not in a thought": (
        "<think>\nSTOP\n</think>\n\nX STOP",
        ("STOP",),
        Answer("X ", "STOP", stop_string="STOP"),
    ),
    "not the newlines of the form": (
        "<think>\nA\n\nB\n</think>\n\nX\n\nY",
        ("\n\n",),
        Answer("X", "A\n\nB", stop_string="\n\n"),
    ),
    "not in a call": (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "STOP"}}\n</tool_call>\nSTOP',
        ("STOP",),
        Answer(calls=(Call("weather", '{"city": "STOP"}'),), stop_string="STOP"),
    ),
    "white space before it is content": ("a \n STOP", ("STOP",), Answer("a \n ", stop_string="STOP")),
    "not over a marker": (
        'ST<tool_call>\n{"name": "weather"}\n</tool_call>OP',
        ("STOP",),
        Answer("STOP", calls=(Call("weather", "{}"),)),
    ),
}


@pytest.mark.parametrize("name", STOPS)
def test_stop_strings(assets, name):
    """An answer ends before the first stop string of its content."""
    text, stops, expected = STOPS[name]

    assert expected == answer(assets, text, stop_strings=stops, parse_tools="hermes", tools=TOOLS)


def test_a_stop_string_may_be_included(assets):
    """With `include_stop_string` the answer ends after it."""
    assert Answer("one STOP", stop_string="STOP") == answer(
        assets, "one STOP two", stop_strings=("STOP",), include_stop_string=True
    )


def test_stop_strings_beside_unseparated_thoughts(assets):
    """The newlines after a thought do not match, even where they are kept."""
    assert Answer("<think>\nA\n\nB\n</think>\n\nX", stop_string="\n\n") == answer(
        assets, "<think>\nA\n\nB\n</think>\n\nX\n\nY", stop_strings=("\n\n",), separate_reasoning=False
    )


def test_after_a_stop_string_nothing_comes_and_nothing_counts(assets):
    """The caller may be late with its abort."""
    ids = assets.tokenizer.encode("one STOP")
    settings = PipelineSettings(stop_strings=("STOP",))
    pipeline = AnswerPipeline(assets.tokenizer, settings, starts_in_reasoning=False)
    for token_id in ids:
        pipeline.push([token_id])

    assert pipeline.wants_stop
    assert pipeline.push(assets.tokenizer.encode(" and more")) == []
    assert len(ids) == pipeline.completion_tokens


def call(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


HERMES = {
    "one": (
        call('{"name": "weather", "arguments": {"city": "Oslo"}}'),
        Answer(calls=(Call("weather", '{"city": "Oslo"}'),)),
    ),
    "after content": (
        "Let me look.\n\n" + call('{"name": "weather", "arguments": {"city": "北京 🌦️"}}') + "<|im_end|>",
        Answer("Let me look.", calls=(Call("weather", '{"city": "北京 🌦️"}'),)),
    ),
    "after a thought": (
        "<think>\nHm.\n</think>\n\n" + call('{"name": "weather", "arguments": {}}'),
        Answer("", "Hm.", (Call("weather", "{}"),)),
    ),
    "two": (
        call('{"name": "weather", "arguments": {"city": "A"}}')
        + "\n"
        + call('{"name": "add", "arguments": {"a": 1}}')
        + "\n",
        Answer(calls=(Call("weather", '{"city": "A"}'), Call("add", '{"a": 1}'))),
    ),
    "text after": (call('{"name": "weather"}') + "\n\nDone.", Answer("Done.", calls=(Call("weather", "{}"),))),
    "no arguments": (call('{"name": "weather"}'), Answer(calls=(Call("weather", "{}"),))),
    "null arguments": (call('{"name": "weather", "arguments": null}'), Answer(calls=(Call("weather", "{}"),))),
    "arguments first": (
        call('{"arguments": {"city": "Oslo"}, "name": "weather"}'),
        Answer(calls=(Call("weather", '{"city": "Oslo"}'),)),
    ),
    "arguments as text": (
        call('{"name": "weather", "arguments": "{\\"city\\": \\"Os\\\\u006co\\"}"}'),
        Answer(calls=(Call("weather", '{"city": "Os\\u006co"}'),)),
    ),
    "other keys": (
        call(
            '{"id": [1, {"x": "}"}], "type": "function", "name": "weather", "n": 1e3, '
            '"arguments": {"city": "A"}, "ok": true}'
        ),
        Answer(calls=(Call("weather", '{"city": "A"}'),)),
    ),
    "arguments keep their spelling": (
        call('{"name":"add","arguments":{ "a" :1.50,\n "b":[{"}":"\\\\\\"]"}] }}'),
        Answer(calls=(Call("add", '{ "a" :1.50,\n "b":[{"}":"\\\\\\"]"}] }'),)),
    ),
    "no white space": (
        '<tool_call>{"name":"weather","arguments":{}}</tool_call>',
        Answer(calls=(Call("weather", "{}"),)),
    ),
    "closing tag missing at the end": (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "A"}}',
        Answer(calls=(Call("weather", '{"city": "A"}'),)),
    ),
    "closing tag missing before the next": (
        '<tool_call>\n{"name": "weather"}\n' + call('{"name": "add"}'),
        Answer(calls=(Call("weather", "{}"), Call("add", "{}"))),
    ),
    "last brace missing": (
        call('{"name": "weather", "arguments": {"city": "A"}'),
        Answer(calls=(Call("weather", '{"city": "A"}'),)),
    ),
    "markers of thoughts inside": (
        call('{"name": "weather", "arguments": {"city": "<think>"}}'),
        Answer(calls=(Call("weather", '{"city": "<think>"}'),)),
    ),
    # From here on: calls that break.
    "unknown function": (
        "A\n" + call('{"name": "rm", "arguments": {}}'),
        Answer("A\n" + call('{"name": "rm", "arguments": {}}'), broken=1),
    ),
    "no JSON": (call("weather(Oslo)") + "\nB", Answer(call("weather(Oslo)") + "\nB", broken=1)),
    "a list": (call('["weather"]'), Answer(call('["weather"]'), broken=1)),
    "a list of calls": (
        call('[{"name": "weather", "arguments": {}}, {"name": "add", "arguments": {"a": 1}}]'),
        Answer(calls=(Call("weather", "{}"), Call("add", '{"a": 1}'))),
    ),
    "an empty list": (call("[]"), Answer(call("[]"), broken=1)),
    "no name": (call('{"arguments": {"city": "A"}}'), Answer(call('{"arguments": {"city": "A"}}'), broken=1)),
    "name is no text": (call('{"name": 3}'), Answer(call('{"name": 3}'), broken=1)),
    "empty": (call(""), Answer(call(""), broken=1)),
    "cut before the name": ('A\n<tool_call>\n{"name": "wea', Answer('A\n<tool_call>\n{"name": "wea', broken=1)),
    "broken, then good": (
        call("x") + "\n" + call('{"name": "add"}'),
        Answer(call("x"), calls=(Call("add", "{}"),), broken=1),
    ),
    "cut in the arguments": (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Os',
        Answer(calls=(Call("weather", '{"city": "Os'),), broken=1),
    ),
    "cut in a word": (
        '<tool_call>\n{"name": "add", "arguments": {"a": 1',
        Answer(calls=(Call("add", '{"a": 1'),), broken=1),
    ),
    "cut behind a backslash": (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "a\\',
        Answer(calls=(Call("weather", '{"city": "a\\'),), broken=1),
    ),
    "cut in arguments before the name": (
        '<tool_call>\n{"arguments": {"city": "Os',
        Answer('<tool_call>\n{"arguments": {"city": "Os', broken=1),
    ),
    "arguments under another name": (
        call('{"name": "weather", "args": {"city": "Oslo"}}'),
        Answer(call('{"name": "weather", "args": {"city": "Oslo"}}'), broken=1),
    ),
    "arguments that are a text under another name": (
        call('{"name": "weather", "input": "Oslo"}'),
        Answer(call('{"name": "weather", "input": "Oslo"}'), broken=1),
    ),
    "arguments that are a list": (
        call('{"name": "weather", "arguments": ["Oslo"]}'),
        Answer(call('{"name": "weather", "arguments": ["Oslo"]}'), broken=1),
    ),
    "arguments that are a number": (
        call('{"name": "weather", "arguments": 3}'),
        Answer(call('{"name": "weather", "arguments": 3}'), broken=1),
    ),
    "arguments that are a text of something else": (
        call('{"name": "weather", "arguments": "Oslo"}'),
        Answer(call('{"name": "weather", "arguments": "Oslo"}'), broken=1),
    ),
    "text behind a call": (
        call('{"name": "weather"} hm') + " A",
        Answer("hm\nA", calls=(Call("weather", "{}"),), broken=1),
    ),
    # Calls that are mended.
    "brackets that do not match": (
        call('{"name": "add", "arguments": {"a": [1}}'),
        Answer(calls=(Call("add", '{"a": [1]}'),)),
    ),
    "brackets that do not match before the name": (
        call('{"arguments": {"a": [1}, "name": "add"}'),
        Answer(calls=(Call("add", '{"a": [1]}'),)),
    ),
    "arguments that are no JSON": (
        call('{"name": "add", "arguments": {"a": one, "b": None,}}'),
        Answer(calls=(Call("add", '{"a": "one", "b": null}'),)),
    ),
    "one brace too many": (
        call('{"name": "weather", "arguments": {"city": "A"}}}'),
        Answer(calls=(Call("weather", '{"city": "A"}'),)),
    ),
    "both braces missing": (
        call('{"name": "weather", "arguments": {"city": "A"'),
        Answer(calls=(Call("weather", '{"city": "A"}'),)),
    ),
    "quotation mark missing": (
        call('{"name": "weather", "arguments": {"city": "A'),
        Answer(calls=(Call("weather", '{"city": "A\\n"}'),)),
    ),
    "raw line breaks": (
        call('{"name": "weather", "arguments": {"city": "a\nb\tc", "r": "\\d"}}'),
        Answer(calls=(Call("weather", '{"city": "a\\nb\\tc", "r": "\\\\d"}'),)),
    ),
    "Python's spelling": (
        call("{'name': 'weather', 'arguments': {'city': 'Oslo', 'now': True}}"),
        Answer(calls=(Call("weather", '{"city": "Oslo", "now": true}'),)),
    ),
    "arguments called parameters": (
        call('{"name": "weather", "parameters": {"city": "Oslo"}}'),
        Answer(calls=(Call("weather", '{"city": "Oslo"}'),)),
    ),
    "arguments as a text with raw line breaks": (
        call('{"name": "weather", "arguments": "{\\"city\\": \\"a\\nb\\"}"}'),
        Answer(calls=(Call("weather", '{"city": "a\\nb"}'),)),
    ),
    "half of a surrogate pair": (
        call('{"name": "weather", "arguments": "{\\"city\\": \\"\\ud83d\\"}"}'),
        Answer(calls=(Call("weather", '{"city": "\\ud83d"}'),)),
    ),
    "several calls between the same tags": (
        call('{"name": "weather", "arguments": {"city": "A"}}\n{"name": "add", "arguments": {"a": 1}}'),
        Answer(calls=(Call("weather", '{"city": "A"}'), Call("add", '{"a": 1}'))),
    ),
    "tags instead": (
        call("<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>"),
        Answer(calls=(Call("weather", '{"city": "Oslo"}'),)),
    ),
    # Markers inside an argument.
    "closing tag in a string": (
        call('{"name": "weather", "arguments": {"city": "a </tool_call> b"}}') + "\nDone.",
        Answer("Done.", calls=(Call("weather", '{"city": "a </tool_call> b"}'),)),
    ),
    "both tags in a string": (
        call('{"name": "weather", "arguments": {"city": "<tool_call>x</tool_call>"}}'),
        Answer(calls=(Call("weather", '{"city": "<tool_call>x</tool_call>"}'),)),
    ),
    "two closing tags in a string": (
        call('{"name": "weather", "arguments": {"city": "a</tool_call>\n</tool_call>\nb"}}'),
        Answer(calls=(Call("weather", '{"city": "a</tool_call>\\n</tool_call>\\nb"}'),)),
    ),
    "closing tag in arguments that are a text": (
        call('{"name": "weather", "arguments": "{\\"city\\": \\"</tool_call>\\"}"}'),
        Answer(calls=(Call("weather", '{"city": "</tool_call>"}'),)),
    ),
    "an open string before the next call": (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "A\n</tool_call>\n' + call('{"name": "add"}'),
        Answer(calls=(Call("weather", '{"city": "A\\n"}'), Call("add", "{}"))),
    ),
}


@pytest.mark.parametrize("name", HERMES)
def test_hermes_calls(assets, name):
    """Calls written as JSON; what breaks before its name is known is content again, as generated."""
    text, expected = HERMES[name]

    assert expected == answer(assets, text, parse_tools="hermes", tools=TOOLS)


CALL_A = '{"name": "add", "arguments": {"a": 1}}'
CALL_B = '{"name": "weather", "arguments": {"city": "B"}}'
A, B = Call("add", '{"a": 1}'), Call("weather", '{"city": "B"}')

UNTAGGED = {
    "one": (CALL_A, Answer(calls=(A,))),
    "white space around it": (f" \n{CALL_A}\n\n", Answer(calls=(A,))),
    "behind a thought": (f"<think>\nhm\n</think>\n\n{CALL_A}", Answer(reasoning="hm", calls=(A,))),
    "other spellings": (
        '{"id": "c", "type": "function", "parameters": {"city": "B"}, "name": "weather"}',
        Answer(calls=(B,)),
    ),
    "several": (f"{CALL_A}\n{CALL_B}", Answer(calls=(A, B))),
    "a list": (f"[{CALL_A},\n {CALL_B}]", Answer(calls=(A, B))),
    "mended": ("{'name': 'add', 'arguments': {'a': 1,}}", Answer(calls=(A,))),
    "the closing tag alone": (f"{CALL_A}\n</tool_call>\nDone.", Answer("Done.", calls=(A,))),
    "then one with tags": (f"{CALL_A}\n" + call(CALL_B), Answer(calls=(A, B))),
    "tags in a value": (
        '{"name": "weather", "arguments": {"city": "<tool_call>a</tool_call>"}}',
        Answer(calls=(Call("weather", '{"city": "<tool_call>a</tool_call>"}'),)),
    ),
    # From here on: JSON that is an answer.
    "text before it": (f"So: {CALL_A}", Answer(f"So: {CALL_A}")),
    "text behind it": (f"{CALL_A} as asked", Answer(f"{CALL_A} as asked")),
    "in a fence": (f"```json\n{CALL_A}\n```", Answer(f"```json\n{CALL_A}\n```")),
    "an unknown function": (
        '{"name": "Ann", "arguments": {"a": 1}}',
        Answer('{"name": "Ann", "arguments": {"a": 1}}'),
    ),
    "another key": (
        '{"name": "add", "arguments": {"a": 1}, "note": "x"}',
        Answer('{"name": "add", "arguments": {"a": 1}, "note": "x"}'),
    ),
    "another key before": ('{"tool": 1, "name": "add"}', Answer('{"tool": 1, "name": "add"}')),
    "arguments twice": (
        '{"name": "add", "arguments": {}, "parameters": {"a": 1}}',
        Answer('{"name": "add", "arguments": {}, "parameters": {"a": 1}}'),
    ),
    "no arguments": ('{"name": "add"}', Answer('{"name": "add"}')),
    "null": ('{"name": "add", "arguments": null}', Answer('{"name": "add", "arguments": null}')),
    "arguments as a text": (
        '{"name": "add", "arguments": "{}"}',
        Answer('{"name": "add", "arguments": "{}"}'),
    ),
    "numbers": ("[1, 2]", Answer("[1, 2]")),
    "a person": ('{"name": "Ann", "age": 3}', Answer('{"name": "Ann", "age": 3}')),
    "cut in the arguments": ('{"name": "add", "arguments": {"a": 1', Answer('{"name": "add", "arguments": {"a": 1')),
    "one of two": (f'{CALL_A}\n{{"name": "x"}}', Answer(f'{CALL_A}\n{{"name": "x"}}')),
    "the closing tag of nothing": ('{"a": 1}</tool_call>', Answer('{"a": 1}</tool_call>')),
}


@pytest.mark.parametrize("form", ["hermes", "xml"])
@pytest.mark.parametrize("name", UNTAGGED)
def test_json_calls_without_tags(assets, name, form):
    """An answer of calls and nothing else, and what must stay an answer."""
    text, expected = UNTAGGED[name]

    assert expected == answer(assets, text, parse_tools=form, tools=TOOLS, untagged=True)


@pytest.mark.parametrize("form", ["hermes", "xml"])
def test_json_calls_without_tags_are_text_where_they_are_not_looked_for(assets, form):
    """A form of the answer may be JSON of any kind; without tools nothing is a call."""
    assert answer(assets, CALL_A, parse_tools=form, tools=TOOLS) == Answer(CALL_A)
    assert answer(assets, CALL_A, parse_tools=form, tools=None, untagged=True) == Answer(CALL_A)
    assert answer(assets, CALL_A, tools=TOOLS, untagged=True) == Answer(CALL_A)


def test_a_json_answer_streams_from_the_key_on_that_is_none_of_a_call(assets):
    settings = PipelineSettings(parse_tools="hermes", tools=TOOLS, untagged=True)
    pipeline = AnswerPipeline(assets.tokenizer, settings, starts_in_reasoning=False)

    begun = pipeline.push(assets.tokenizer.encode('{"city":'))
    more = pipeline.push(assets.tokenizer.encode(' "Oslo"'))

    assert [*begun, *more] == [Content('{"city":', begun[0].tokens), Content(' "Oslo"', more[0].tokens)]


@pytest.mark.parametrize("ending", ["", "}"])
def test_a_json_call_without_tags_that_the_model_ended_is_whole(assets, ending):
    settings = PipelineSettings(parse_tools="hermes", tools=TOOLS, untagged=True)
    for stopped in (True, False):
        pipeline = AnswerPipeline(assets.tokenizer, settings, starts_in_reasoning=False)
        events = pipeline.push(assets.tokenizer.encode('{"name": "add", "arguments": {"a": 1' + ending))
        events += pipeline.finish(stopped=stopped)

        assert isinstance(events[0], ToolCallStart if stopped else Content)


def test_one_json_call_without_tags_where_one_is_wanted(assets):
    both = answer(
        assets, f"{CALL_A}\n{CALL_B}", parse_tools="hermes", tools=TOOLS, untagged=True, parallel_tool_calls=False
    )

    assert both.calls == (A,)


def xml(name: str, *parameters: tuple[str, str]) -> str:
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return call(f"<function={name}>\n{inner}</function>")


WEATHER = call('{"name": "weather", "arguments": {"city": "Oslo"}}')
OPEN_THOUGHTS = {
    "a call at the end": ("<think>\nHm.\n" + WEATHER, Answer("", "Hm.", (Call("weather", '{"city": "Oslo"}'),))),
    "nothing but a call": ("<think>\n" + WEATHER + "<|im_end|>", Answer(calls=(Call("weather", '{"city": "Oslo"}'),))),
    "several calls": (
        "<think>A" + WEATHER + "\n" + call('{"name": "add"}') + "\n",
        Answer("", "A", (Call("weather", '{"city": "Oslo"}'), Call("add", "{}"))),
    ),
    "a closing tag in a string": (
        "<think>A" + call('{"name": "weather", "arguments": {"city": "</tool_call>"}}'),
        Answer("", "A", (Call("weather", '{"city": "</tool_call>"}'),)),
    ),
    "without the closing tag": (
        '<think>A<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}',
        Answer("", "A", (Call("weather", '{"city": "Oslo"}'),)),
    ),
    "in tags": (
        "<think>A<tool_call><function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function></tool_call>",
        Answer("", "A", (Call("weather", '{"city": "Oslo"}'),)),
    ),
    # These are text of the thought.
    "the thought closes": ("<think>A\n" + WEATHER + "\n</think>\n\nB", Answer("B", "A\n" + WEATHER)),
    "the thought goes on": ("<think>A\n" + WEATHER + "\nB", Answer("", "A\n" + WEATHER + "\nB")),
    "an unknown function": ("<think>A" + call('{"name": "rm"}'), Answer("", "A" + call('{"name": "rm"}'))),
    "no call": ("<think>A <tool_call> is a tag", Answer("", "A <tool_call> is a tag")),
    "cut short": (
        '<think>A<tool_call>\n{"name": "weather", "arguments": {"city": "Os',
        Answer("", 'A<tool_call>\n{"name": "weather", "arguments": {"city": "Os'),
    ),
    "whole, and another one cut short": (
        "<think>A" + WEATHER + '<tool_call>\n{"name": "wea',
        Answer("", "A" + WEATHER + '<tool_call>\n{"name": "wea'),
    ),
    "another thought inside": ("<think>A<tool_call><think>", Answer("", "A<tool_call><think>")),
}


@pytest.mark.parametrize("name", OPEN_THOUGHTS)
def test_calls_in_a_thought_that_never_closes(assets, name):
    """At the answer's end they are taken; otherwise they are the thought's text."""
    text, expected = OPEN_THOUGHTS[name]

    assert expected == answer(assets, text, parse_tools="hermes", tools=TOOLS)


def test_calls_in_an_open_thought_without_tools(assets):
    """A request without tools gets the text."""
    assert Answer("", "A" + WEATHER) == answer(assets, "<think>A" + WEATHER)


def test_only_the_first_call_of_a_thought_where_one_is_wanted(assets):
    """`parallel_tool_calls` holds there, too."""
    text = "<think>A" + WEATHER + call('{"name": "add"}')
    expected = Answer("", "A", (Call("weather", '{"city": "Oslo"}'),))

    assert expected == answer(assets, text, parse_tools="hermes", tools=TOOLS, parallel_tool_calls=False)


def test_a_call_in_a_thought_that_stays_in_the_content(assets):
    """The call is taken out of it."""
    expected = Answer("<think>\nA", calls=(Call("weather", '{"city": "Oslo"}'),))

    assert expected == answer(
        assets, "<think>\nA" + WEATHER, parse_tools="hermes", tools=TOOLS, separate_reasoning=False
    )


def bare(name: str, *parameters: tuple[str, str]) -> str:
    return xml(name, *parameters).removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")


XML = {
    "one": (xml("weather", ("city", "Oslo")), Answer(calls=(Call("weather", '{"city": "Oslo"}'),))),
    "typed": (xml("add", ("a", "3"), ("b", "2.5")), Answer(calls=(Call("add", '{"a": 3, "b": 2.5}'),))),
    "no parameters": (xml("weather"), Answer(calls=(Call("weather", "{}"),))),
    "many lines": (
        "Writing.\n" + xml("weather", ("city", '\n  def f():\n\treturn "<b>"\n')),
        Answer("Writing.", calls=(Call("weather", json.dumps({"city": '\n  def f():\n\treturn "<b>"\n'})),)),
    ),
    "unicode": (xml("weather", ("city", "北京 🌦️")), Answer(calls=(Call("weather", '{"city": "北京 🌦️"}'),))),
    "two": (
        xml("add", ("a", "1")) + "\n" + xml("add", ("a", "x")),
        Answer(calls=(Call("add", '{"a": 1}'), Call("add", '{"a": "x"}'))),
    ),
    "not described": (xml("add", ("c", "7")), Answer(calls=(Call("add", '{"c": "7"}'),))),
    "in one line": (
        "<tool_call><function=weather><parameter=city>Oslo</parameter></function></tool_call>",
        Answer(calls=(Call("weather", '{"city": "Oslo"}'),)),
    ),
    "function not closed": (
        call("<function=weather>\n<parameter=city>\nOslo\n</parameter>"),
        Answer(calls=(Call("weather", '{"city": "Oslo"}'),)),
    ),
    "unknown function": (xml("rm", ("path", "/")), Answer(xml("rm", ("path", "/")), broken=1)),
    "JSON instead": (
        call('{"name": "weather", "arguments": {"city": "Oslo"}}'),
        Answer(calls=(Call("weather", '{"city": "Oslo"}'),)),
    ),
    "cut before the name": ("<tool_call>\n<function=wea", Answer("<tool_call>\n<function=wea", broken=1)),
    "cut in a value": (
        "<tool_call>\n<function=weather>\n<parameter=city>\nOs",
        Answer(calls=(Call("weather", '{"city": "Os'),), broken=1),
    ),
    "cut in a value that is no string": (
        "<tool_call>\n<function=add>\n<parameter=a>\n12",
        Answer(calls=(Call("add", '{"a": 12'),), broken=1),
    ),
    "cut behind a value": (
        "<tool_call>\n<function=add>\n<parameter=a>\n12\n</parameter>\n",
        Answer(calls=(Call("add", '{"a": 12'),), broken=1),
    ),
    "cut behind the function": (
        "<tool_call>\n<function=add>\n<parameter=a>\n12\n</function>\n",
        Answer(calls=(Call("add", '{"a": 12}'),)),
    ),
    "text instead of parameters": (
        call("<function=weather>\nOslo\n</function>"),
        Answer(call("<function=weather>\nOslo\n</function>"), broken=1),
    ),
    "text behind a call": (
        "<tool_call>" + bare("weather", ("city", "A")) + "\nhm\n</tool_call>\nB",
        Answer("hm\nB", calls=(Call("weather", '{"city": "A"}'),), broken=1),
    ),
    # Tags that are missing, and tags that are text.
    "text between parameters": (
        call("<function=weather>\n<parameter=city>A</parameter>\nhm\n</function>"),
        Answer(calls=(Call("weather", '{"city": "A</parameter>\\nhm"}'),)),
    ),
    "a parameter is not closed": (
        call("<function=add>\n<parameter=a>\n1\n<parameter=b>\n2\n</function>"),
        Answer(calls=(Call("add", '{"a": 1, "b": 2}'),)),
    ),
    "no parameter is closed": (
        call("<function=weather>\n<parameter=city>\nOslo\n"),
        Answer(calls=(Call("weather", '{"city": "Oslo\\n"}'),)),
    ),
    "a parameter of an unknown shape is not closed": (
        call("<function=open>\n<parameter=a>\n1\n<parameter=b>\nx <parameter=c> y\n</function>"),
        Answer(calls=(Call("open", '{"a": "1", "b": "x <parameter=c> y"}'),)),
    ),
    "the closing tag in a value": (
        xml("weather", ("city", "a </parameter> b\n</parameter>\nc")),
        Answer(calls=(Call("weather", json.dumps({"city": "a </parameter> b\n</parameter>\nc"})),)),
    ),
    "the whole form in a value": (
        xml("weather", ("city", "<function=f>\n<parameter=x>\n1\n</function>\n.")),
        Answer(calls=(Call("weather", json.dumps({"city": "<function=f>\n<parameter=x>\n1\n</function>\n."})),)),
    ),
    "the same parameter's tag in a value": (
        xml("add", ("a", "<parameter=a>")),
        Answer(calls=(Call("add", '{"a": "<parameter=a>"}'),)),
    ),
    "markers in a value": (
        xml("weather", ("city", "<tool_call>a</tool_call>\nb <think>")),
        Answer(calls=(Call("weather", json.dumps({"city": "<tool_call>a</tool_call>\nb <think>"})),)),
    ),
    "several calls between the same tags": (
        call(bare("add", ("a", "1")) + "\n" + bare("weather", ("city", "B"))),
        Answer(calls=(Call("add", '{"a": 1}'), Call("weather", '{"city": "B"}'))),
    ),
    "a half of a surrogate pair": (
        xml("typed", ("o", '["\\ud83d"]')),
        Answer(calls=(Call("typed", '{"o": ["\\ud83d"]}'),)),
    ),
    # Without tags around the call.
    "bare": (bare("weather", ("city", "Oslo")), Answer(calls=(Call("weather", '{"city": "Oslo"}'),))),
    "bare with a closing tag": (
        "Now.\n" + bare("weather", ("city", "Oslo")) + "\n</tool_call>\nDone.",
        Answer("Now.Done.", calls=(Call("weather", '{"city": "Oslo"}'),)),
    ),
    "two bare ones": (
        bare("add", ("a", "1")) + "\n" + bare("add", ("a", "2")) + "\nDone.",
        Answer("Done.", calls=(Call("add", '{"a": 1}'), Call("add", '{"a": 2}'))),
    ),
    "bare without parameters": ("A <function=weather></function> B", Answer("AB", calls=(Call("weather", "{}"),))),
    "bare, not closed": (
        "<function=weather>\n<parameter=city>\nOslo\n</function>\nDone.",
        Answer("Done.", calls=(Call("weather", '{"city": "Oslo"}'),)),
    ),
    "bare, closed by the tag alone": (
        "<function=weather>\n<parameter=city>\nOslo\n</tool_call>",
        Answer(calls=(Call("weather", '{"city": "Oslo"}'),)),
    ),
    "bare before another": (
        bare("add", ("a", "1")) + "\n" + xml("add", ("a", "2")),
        Answer(calls=(Call("add", '{"a": 1}'), Call("add", '{"a": 2}'))),
    ),
    "bare, of an unknown function": (
        "A\n" + bare("rm", ("path", "/")) + " B",
        Answer("A\n" + bare("rm", ("path", "/")) + " B"),
    ),
    "only spoken of": (
        "Write <function=weather> to call it, <function= and <functio",
        Answer("Write <function=weather> to call it, <function= and <functio"),
    ),
    "bare in a thought": (
        "<think>\n<function=weather></function>\n</think>\n\nA",
        Answer("A", "<function=weather></function>"),
    ),
}


@pytest.mark.parametrize("name", XML)
def test_xml_calls(assets, name):
    """Calls written as tags; values become the JSON that the tool's schema asks for."""
    text, expected = XML[name]

    assert expected == answer(assets, text, parse_tools="xml", tools=TOOLS)


def test_without_tools_calls_are_content(assets):
    """A request without tools gets the text."""
    text = "A\n" + call('{"name": "weather"}') + "\nB"

    assert Answer(text) == answer(assets, text)


def test_any_function_where_tools_are_not_named(assets):
    """Without a list of tools every name is a call's."""
    assert (Call("anything", "{}"),) == answer(assets, call('{"name": "anything"}'), parse_tools="hermes").calls


def test_one_call_at_a_time(assets):
    """Without parallel calls the answer ends with the first whole one."""
    text = call("x") + call('{"name": "add"}') + "\n" + call('{"name": "weather"}') + "text"
    settings: dict[str, Any] = {"parse_tools": "hermes", "tools": TOOLS, "parallel_tool_calls": False}

    assert Answer(call("x"), calls=(Call("add", "{}"),), broken=1) == answer(assets, text, **settings)


def test_arguments_are_streamed(assets):
    """The name comes once, and arguments before the call is over."""
    pipeline = AnswerPipeline(
        assets.tokenizer, PipelineSettings(parse_tools="hermes", tools=TOOLS), starts_in_reasoning=False
    )
    whole = call('{"name": "weather", "arguments": {"city": "a long name of a place"}}')
    events = [event for token_id in assets.tokenizer.encode(whole) for event in pipeline.push([token_id])]

    assert ToolCallStart(0, "weather", events[0].tokens) == events[0]
    assert len(events) > 5
    assert all(isinstance(event, ToolCallArguments) for event in events[1:])


def test_a_text_in_tags_is_streamed(assets):
    """A value that can only be a string comes out as it is written, and not all at its end."""
    pipeline = AnswerPipeline(
        assets.tokenizer, PipelineSettings(parse_tools="xml", tools=TOOLS), starts_in_reasoning=False
    )
    lines = "".join(f"line {n} of a <b>long</b> text\n" for n in range(60))
    ids = assets.tokenizer.encode(xml("weather", ("city", lines)))
    events = [pipeline.push([token_id]) for token_id in ids]
    told = [bool(each) for each in events]
    written = "".join(e.text for each in events for e in each if isinstance(e, ToolCallArguments))

    assert {"city": lines} == json.loads(written)
    # The tag before the value takes some tokens, and what may be a tag or the form's line break is held for some.
    assert sum(told) > len(ids) // 2
    assert max(len(list(group)) for any_told, group in itertools.groupby(told) if not any_told) < 25


def test_white_space_without_end_is_not_held_without_end(assets):
    """What is held is copied with every token; where a model writes nothing else, it comes out now and then."""
    newline, space = assets.tokenizer.encode("\n")[0], assets.tokenizer.encode("x\t")[-1]
    cut = '<tool_call>\n{"name": "weather", "arguments": {"city": "A</tool_call>'
    for before, token_id in (("<think>\nA", newline), ("<think>A</think>B", space), (cut, space)):
        pipeline = AnswerPipeline(
            assets.tokenizer, PipelineSettings(parse_tools="hermes", tools=TOOLS), starts_in_reasoning=False
        )
        pipeline.push(assets.tokenizer.encode(before))
        told = [len(pipeline.push([token_id])) for _ in range(5_000)]

        assert sum(told) > 0, before
        assert not any(told[:100]), before


def test_a_call_that_is_cut_is_told_from_a_whole_one(assets):
    """Only the answer's end leaves arguments that are no JSON, and whoever names the reason of the end is told."""
    for text, cut in ((WEATHER, False), (WEATHER[:-20], True), (call("x"), False), ("A", False)):
        pipeline = AnswerPipeline(
            assets.tokenizer, PipelineSettings(parse_tools="hermes", tools=TOOLS), starts_in_reasoning=False
        )
        run(pipeline, [assets.tokenizer.encode(text)])

        assert cut == pipeline.has_cut_call, text


# What the model has written when it ends its answer, and the arguments of the call; None where it is cut.
WITHOUT_END = {
    '{"name": "weather", "arguments": {"city": "Oslo"': {"city": "Oslo"},
    '{"name": "weather", "arguments": {"city": "Oslo",': None,
    '{"name": "weather", "arguments": {"city": "Oslo"\n': {"city": "Oslo"},
    '{"name": "weather", "arguments": {"city": "Os': None,
    '{"name": "weather", "arguments": {"city"': None,
    '{"name": "weather", "arguments": {"city":': None,
    '{"name": "weather", "arguments": {': {},
    '{"name": "add", "arguments": {"a": 12': {"a": 12},
    '{"name": "add", "arguments": {"a": [1, {"b": 2}': {"a": [1, {"b": 2}]},
    "<function=weather>\n<parameter=city>\nOslo\n</parameter>": {"city": "Oslo"},
    "<function=weather>\n<parameter=city>\nOslo\n</parameter>\n": {"city": "Oslo"},
    "<function=add>\n<parameter=a>\n12\n</parameter>\n<parameter=b>\n1.5\n</parameter>": {"a": 12, "b": 1.5},
    "<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</func": None,
    "<function=weather>\n<parameter=city>\nOslo\n</param": None,
    "<function=weather>\n<parameter=city>\nOslo": None,
    "<function=weather>\n<parameter=city>": None,
}


@pytest.mark.parametrize("where", ["in content", "in a thought", "without tags"])
@pytest.mark.parametrize("text", WITHOUT_END)
def test_a_call_that_lacks_its_end_alone_is_whole_where_the_model_ended_the_answer(assets, text, where):
    """At `max_tokens` it is cut: nobody knows what would have come."""
    if where == "without tags" and not text.startswith("<"):
        return
    settings = PipelineSettings(parse_tools="xml", tools=TOOLS)
    for stopped in (True, False):
        pipeline = AnswerPipeline(assets.tokenizer, settings, starts_in_reasoning=where == "in a thought")
        ids = assets.tokenizer.encode(text if where == "without tags" else "<tool_call>\n" + text)
        events = pipeline.push(ids) + pipeline.finish(stopped=stopped)
        calls = fold(events, pipeline).calls
        expected = WITHOUT_END[text] if stopped else None

        if where == "in a thought":
            assert [json.loads(each.arguments) for each in calls] == ([] if expected is None else [expected])
        else:
            assert pipeline.has_cut_call == (expected is None)
            assert expected is None or [json.loads(each.arguments) for each in calls] == [expected]


def test_a_function_tag_alone_is_a_call_between_the_tags_of_one_only(assets):
    for text, calls in (("<tool_call>\n<function=open>", (Call("open", "{}"),)), ("Say <function=open>", ())):
        settings = PipelineSettings(parse_tools="xml", tools=TOOLS)
        pipeline = AnswerPipeline(assets.tokenizer, settings, starts_in_reasoning=False)
        events = pipeline.push(assets.tokenizer.encode(text)) + pipeline.finish(stopped=True)

        assert fold(events, pipeline).calls == calls


def test_plain_content_is_never_held(assets):
    """Text that can be nothing else comes out with its token."""
    ids = assets.tokenizer.encode("Hello there, how are you today?")
    settings = PipelineSettings(stop_strings=("\n\nUser:",), parse_tools="hermes", eos_token_ids=assets.eos_token_ids)
    pipeline = AnswerPipeline(assets.tokenizer, settings, starts_in_reasoning=False)

    for token_id in ids:
        assert [Content(assets.tokenizer.token_text(token_id), 1)] == pipeline.push([token_id])


def test_the_fast_path_comes_back(assets):
    """After a token that needed care the next ones are plain again."""
    settings = PipelineSettings(stop_strings=("STOP",), parse_tools="hermes", eos_token_ids=assets.eos_token_ids)
    pipeline = AnswerPipeline(assets.tokenizer, settings, starts_in_reasoning=True)
    for text, quick in (("Hm\n\nso", True), ("\n", False), ("</think>\n\n", False), ("Yes", True), (" ST", False)):
        for token_id in assets.tokenizer.encode(text):
            pipeline.push([token_id])
        word = assets.tokenizer.encode("so")[0]

        assert quick == (pipeline.plain_texts[word] is not None), text


def test_ids_that_are_ordinary_tokens_can_be_hidden(assets):
    """A stop token id of the request has no text, whatever token it is."""
    ids = assets.tokenizer.encode("Hello!")
    settings = PipelineSettings(eos_token_ids=frozenset(ids[-1:]))

    assert Answer(assets.tokenizer.decode(ids[:-1])) == every_way(
        lambda: AnswerPipeline(assets.tokenizer, settings, starts_in_reasoning=False), ids
    )


def test_special_tokens_can_be_shown(assets):
    """They are hidden unless asked for."""
    assert Answer("A<|im_start|>B") == answer(assets, "A<|im_start|>B", skip_special_tokens=False)
    assert Answer("AB") == answer(assets, "A<|im_start|>B")


def test_finish_accounts_for_ids_without_text(assets):
    """The end id is part of the answer's tokens, in the section that it ended."""
    tokenizer = assets.tokenizer
    pipeline = AnswerPipeline(tokenizer, PipelineSettings(eos_token_ids=assets.eos_token_ids), starts_in_reasoning=True)

    assert pipeline.push(tokenizer.encode("<|im_end|>")) == []
    assert [Reasoning("", 1)] == pipeline.finish()
    assert pipeline.finish() == []
    assert pipeline.push(tokenizer.encode("more")) == []


COMPLETIONS = {
    "plain": ("one two", (), Answer("one two")),
    "markers are text": ("<think>a</think>\n<tool_call>", (), Answer("<think>a</think>\n<tool_call>")),
    "stop string": ("one STOP two", ("STOP",), Answer("one ", stop_string="STOP")),
    "end id": ("one<|endoftext|>", (), Answer("one")),
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_completions(assets, name):
    """Raw completions know text and stop strings only."""
    text, stops, expected = COMPLETIONS[name]
    settings = PipelineSettings(stop_strings=stops, eos_token_ids=assets.eos_token_ids)

    assert expected == every_way(lambda: CompletionPipeline(assets.tokenizer, settings), assets.tokenizer.encode(text))


@pytest.mark.parametrize("character", ["é", "你", "👩", "ᚙ"])
def test_a_prompt_may_end_inside_a_character(assets, character):
    """The first text completes the character; if the answer goes elsewhere, the prompt's half is not its text."""
    tokenizer = assets.tokenizer
    ids = byte_ids(tokenizer, character)
    for at in range(1, len(ids)):
        prompt = tokenizer.encode("x ").tolist() + ids[:at]

        def new(prompt: list[int] = prompt) -> CompletionPipeline:
            return CompletionPipeline(tokenizer, PipelineSettings(), context=prompt)

        assert Answer(character + "!") == every_way(new, ids[at:] + tokenizer.encode("!").tolist())
        assert Answer("!") == every_way(new, tokenizer.encode("!").tolist())
        assert Answer("") == every_way(new, [])


def test_half_a_character_at_the_end_is_dropped(assets):
    """An answer cut inside a character ends before it; inside an answer, broken bytes show as U+FFFD."""
    tokenizer = assets.tokenizer
    half = byte_ids(tokenizer, "你")[:-1]
    settings = PipelineSettings()

    def new() -> AnswerPipeline:
        return AnswerPipeline(tokenizer, settings, starts_in_reasoning=False)

    assert Answer("a") == every_way(new, tokenizer.encode("a").tolist() + half)
    assert Answer("a\ufffdb") == every_way(new, tokenizer.encode("a").tolist() + half + tokenizer.encode("b").tolist())
    assert Answer("a\ufffd", "b") == every_way(
        new, tokenizer.encode("a").tolist() + half + tokenizer.encode("<think>b").tolist()
    )


def byte_ids(tokenizer: Any, text: str) -> list[int]:
    """One id for each byte."""
    of_byte = {tokenizer.token_bytes(i): i for i in range(400)}
    return [of_byte[bytes([byte])] for byte in text.encode()]
