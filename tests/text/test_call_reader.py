"""Calls in pieces of any size: the parsers never raise, and no split changes what they make of a text."""

from __future__ import annotations

import json
import sys
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.text.call_reader import CallReader
from qwenserve.text.tool_calls import tool_schemas
from tests.text.folding import refuse

TOOLS = {
    "f": {"properties": {"x": {"type": "integer"}, "s": {"type": "string"}, "o": {"type": ["object", "string"]}}},
    "g": {},
}
HERMES = st.sampled_from(
    [
        *(
            '{"name": "f"',
            '{"name": "f", "arguments": {',
            '"arguments": ',
            '"parameters": {"s": "',
            '"name": "g"',
            '"id": 1',
        ),
        *(
            ", ",
            ": ",
            "{",
            "}",
            "[",
            "]",
            '"',
            "'",
            "\\",
            "\n",
            " ",
            "null",
            "12",
            '"{\\"s\\": 1}"',
            "\\ud83d",
            "天",
            "x",
        ),
    ]
)
TAGS = st.sampled_from(
    [
        *(
            "<function=f>",
            "<function=g>",
            "<function=h>",
            "<function=f\n",
            "</function>",
            "<parameter=x>",
            "<parameter=s>",
        ),
        *(
            "<parameter=o>",
            "<parameter=y>",
            "</parameter>",
            "<",
            ">",
            "\n",
            "\n\n",
            " ",
            "12",
            "{'a': [1]}",
            "text",
            "天",
        ),
        *("</para", "</function", "<parameter=", '"', "\\", " " * 600),
    ]
)


class Read(NamedTuple):
    """What became of a text."""

    name: str | None
    arguments: str
    content: str
    rest: str | None
    complete: bool
    broken: bool


def read(pieces: list[str], *, closed: bool, bare: bool, stopped: bool = False) -> Read:
    reader = CallReader(TOOLS, bare=bare)
    told = []
    rest = None
    for number, piece in enumerate(pieces):
        told.append(reader.push(piece))
        if reader.ended:
            rest = reader.rest + "".join(pieces[number + 1 :])
            break
    else:
        told.append(reader.end(closed=closed, tag=closed, stopped=stopped))
    names = [each.name for each in told if each.name is not None]
    assert len(names) <= 1
    return Read(
        names[0] if names else None,
        "".join(each.arguments for each in told),
        "".join(each.content for each in told),
        # White space behind a call is none of the text.
        None if rest is None else rest.lstrip(),
        reader.complete,
        reader.broken,
    )


@settings(derandomize=True, max_examples=500, deadline=None)
@given(
    st.lists(HERMES | st.text(max_size=2), max_size=16) | st.lists(TAGS | st.text(max_size=2), max_size=16),
    st.sampled_from(["", '{"name": "f", "arguments": {"s": ', "<function=f>\n", "<function=g><parameter=s>"]),
    st.sampled_from(["closed", "stopped", "cut"]),
    st.booleans(),
)
def test_any_text_in_any_pieces(fragments, opening, ended, bare):
    """A whole call has an object for arguments; a text that is no call comes back as it was."""
    fragments = [opening, *fragments]
    text = "".join(fragments)
    bare &= text.startswith("<")  # calls without tags around them are found by that
    closed = ended == "closed"
    end = {"closed": closed, "stopped": ended == "stopped", "bare": bare}
    whole = read([text], **end)

    assert whole == read(list(text), **end) == read(fragments, **end)
    for at in range(0, len(text), max(1, len(text) // 24)):
        assert whole == read([text[:at], text[at:]], **end)
    if whole.name is None:
        assert whole.content == text + ("</tool_call>" if closed else "")
        assert not whole.arguments
    if whole.complete:
        assert isinstance(json.loads(whole.arguments, parse_constant=refuse), dict)
    assert whole.complete != whole.broken


BEHIND = '{"name": "f", "arguments": {"s": "x"}'


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (BEHIND + ', "id": 3, "ok": [1, {"}": "]"}]}', None),
        (BEHIND + "}}] hm", "hm"),
        (BEHIND + " hm", "hm"),
        (BEHIND + ', "id": 3 hm', '"id": 3 hm'),
        (BEHIND + ', "": 1}', '"": 1}'),
        (BEHIND + ', "open: 1}', '"open: 1}'),
        ('{"arguments": {"s": "x"}, "name": "f" hm', "hm"),
        ('{"arguments": "{\\"s\\": \\"x\\"}", "name": "f", hm', "hm"),
    ],
)
def test_text_behind_the_arguments_is_not_lost(text, rest):
    """What is no part of the call comes back, whether it was noticed on the way or at the end; the call is whole."""
    for pieces in ([text], list(text)):
        told = read(pieces, closed=True, bare=False)

        assert json.loads(told.arguments) == {"s": "x"}
        assert told.complete
        assert (told.rest or told.content or None) == rest


def calls_made(text: str) -> int:
    """How many functions are called to read a text, built-in ones among them."""
    made = 0

    def count(frame, event, argument):
        nonlocal made
        made += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        read([text[at : at + 5] for at in range(0, len(text), 5)], closed=True, bare=False)
    finally:
        sys.setprofile(before)
    return made


@pytest.mark.parametrize(
    "unit", ["x", " ", "\n", "<", "</parameter>", "</function>", "<parameter=s>", '"', "\\", "{", '", ']
)
@pytest.mark.parametrize(
    "opening",
    [
        '{"name": "f", "arguments": {"s": "',
        '{"name": "f", "arguments": "',
        "<function=f><parameter=s>",
        "<function=f><parameter=o>",
    ],
)
def test_work_grows_with_the_text(opening, unit):
    """Twice the text is twice the work, in pieces as small as tokens."""
    once, twice = (calls_made(opening + unit * count) for count in (400, 800))

    assert twice < 2.5 * once + 500


def test_tools_may_describe_nothing():
    """Parameters that are no schema are none; a bare function is a tool as well."""
    tools = [
        {"type": "function", "function": {"name": "a", "parameters": None}},
        {"type": "function", "function": {"name": "b", "parameters": "x"}},
        {"type": "function", "function": {"name": "c"}},
        {"name": "d", "parameters": {"properties": {}}},
    ]

    assert tool_schemas(tools) == {"a": {}, "b": {}, "c": {}, "d": {"properties": {}}}


def work_at_the_end(text: str, end: str) -> int:
    """How many functions are called for the last piece of a text, which came piece by piece, and its end."""
    made = 0

    def count(frame, event, argument):
        nonlocal made
        made += event in ("call", "c_call")

    reader = CallReader(TOOLS)
    for at in range(0, len(text), 1_000):
        reader.push(text[at : at + 1_000])
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        reader.push(end)
        if not reader.ended:
            reader.end(closed=True, tag=True)
    finally:
        sys.setprofile(before)
    return made


HUGE = 870_000
IN_TAGS = ("<function=f><parameter=o>", "</parameter></function>")
IN_QUOTES = ('{"name": "f", "arguments": "', '"}')


@pytest.mark.parametrize("length", [8_000, 54_000, 100_000, HUGE])
@pytest.mark.parametrize("unit", ["1,", "1.5,", "[],", "'a',", "True,", '{"a": null},', "\\n", '"'])
@pytest.mark.parametrize("form", [IN_TAGS, IN_QUOTES])
def test_a_huge_value_does_not_hold_up_the_loop(form, unit, length):
    """What can be looked at only as a whole is read in one go, beside the streams of others: so much and no more. At
    a fifth of a microsecond each these calls are 20 ms.
    """
    value = '{"a": [' + unit * (length // len(unit)) + "1]}"
    opening, end = form
    text = opening + (value.replace('"', '\\"') if form is IN_QUOTES else value)

    assert work_at_the_end(text, end) < 100_000


def test_long_arguments_in_quotation_marks_are_those_of_the_call():
    value = json.dumps({"s": "x\ny" * 10_000})
    told = read(['{"name": "f", "arguments": ' + json.dumps(value) + "}"], closed=True, bare=False)
    assert json.loads(told.arguments) == json.loads(value)
    assert told.complete
    broken = read(['{"name": "f", "arguments": ' + json.dumps(value[:-1]) + "}"], closed=True, bare=False)
    assert broken.broken
