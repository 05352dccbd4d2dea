"""JSON as models write it becomes JSON that parsers take, however the text is split."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.text.json_repair import MAX_DEPTH, JsonRepair

DERANDOMIZED = settings(derandomize=True, max_examples=200, deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
FRAGMENTS = st.sampled_from(
    [
        *('"', "'", "\\", "{", "}", "[", "]", ",", ":", " ", "\n", "\t", "\x00", "\u00a0"),
        *("true", "None", "1", "-", "e", ".", "0", "u12", "\\u", "\\ud83d", "\\d", '\\"', "\\'", '"a"', '": ', "a b"),
        *('", "', '"}', '", x: ', "天", "1e999", "NaN", "/", "9" * 400),
    ]
)


def read(pieces: list[str]) -> tuple[str, str, bool]:
    """The text that comes out, what is left behind the value, and whether anything was guessed."""
    repair = JsonRepair()
    out = ""
    for number, piece in enumerate(pieces):
        out += repair.push(piece)
        if repair.ended:
            return out, repair.rest + "".join(pieces[number + 1 :]), repair.guessed
    return out + repair.close(), "", repair.guessed


def parsed(text: str) -> object:
    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


@DERANDOMIZED
@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.booleans(), st.sampled_from([None, 0, 2]))
def test_json_comes_out_as_it_is(value, ascii_only, indent):
    """Character for character, and nothing is called a guess."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    assert read([text]) == (text, "", False)
    assert read(list(text)) == (text, "", False)


@DERANDOMIZED
@given(st.sampled_from(["{", "["]), st.lists(FRAGMENTS | st.text(max_size=3), max_size=25))
def test_anything_becomes_json(opening, fragments):
    """Whatever follows an opening bracket, the same for every split."""
    text = opening + "".join(fragments)
    whole = read([text])

    assert isinstance(parsed(whole[0]), dict if opening == "{" else list)
    assert text.endswith(whole[1])
    assert whole == read(list(text)) == read([opening, *fragments])
    for at in range(len(text)):
        assert whole == read([text[:at], text[at:]])


@DERANDOMIZED
@given(st.lists(FRAGMENTS, max_size=20))
def test_every_beginning_can_be_closed(fragments):
    """What has come out is never taken back: wherever the text ends, it can be made whole."""
    for count in range(len(fragments) + 1):
        assert isinstance(parsed(read(["{", *fragments[:count]])[0]), dict)


@DERANDOMIZED
@given(st.lists(st.sampled_from(["word1", "word2", "word3", *'"\\{}[],: \n', "None", '", "']), max_size=25))
def test_no_word_is_lost(fragments):
    """Words end up somewhere in the value, or behind it."""
    text = "{" + "".join(fragments)
    out, rest, _ = read([text])

    for word in ("word1", "word2", "word3"):
        assert text.count(word) == out.count(word) + rest.count(word)


REPAIRED = {
    "raw line breaks": ('{"a": "x\ny\r\tz\x00"}', {"a": "x\ny\r\tz\x00"}),
    "escapes that are none": (r'{"a": "\d+\.\w \x41 \u12 \u"}', {"a": r"\d+\.\w \x41 \u12 \u"}),
    "escapes that are some": (r'{"a": "\\ \" \/ \n é 🌦️"}', {"a": '\\ " / \n é 🌦️'}),
    "half a surrogate pair": (r'{"a": "\ud83d"}', {"a": "\ud83d"}),
    "Python's words": ('{"a": None, "b": [True, False]}', {"a": None, "b": [True, False]}),
    "Python's quotation marks": ("{'a': 'it\\'s', 'b': 'say \"x\"'}", {"a": "it's", "b": 'say "x"'}),
    "commas at the end": ('{"a": [1, 2, ], "b": {"c": 1,},\n}', {"a": [1, 2], "b": {"c": 1}}),
}
GUESSED = {
    "words": ('{"a": one, "b": two words, "c": 12:30}', {"a": "one", "b": "two words", "c": "12:30"}),
    "no numbers of JSON's": (
        '{"a": 007, "b": 1_000, "c": +1, "d": .5, "e": 1., "f": NaN}',
        {"a": "007", "b": "1_000", "c": "+1", "d": ".5", "e": "1.", "f": "NaN"},
    ),
    "endless digits": ('{"a": ' + "9" * 5000 + "}", {"a": "9" * 5000}),
    "quotation marks in a string": (
        '{"a": "He said "hi", and left", "b": ["x "y" z", "w"], "c": 1}',
        {"a": 'He said "hi", and left', "b": ['x "y" z', "w"], "c": 1},
    ),
    "keys without quotation marks": ('{a: "x", b_2 : "y"}', {"a": "x", "b_2": "y"}),
    "doubled braces": ('{{"a": 1}}', {"a": 1}),
    "missing commas": ('{"a": [[1] [2]] "b": {} "c": 3}', {"a": [[1], [2]], "b": {}, "c": 3}),
    "missing values": ('{"a": , "b", "c":}', {"a": None, "b": None, "c": None}),
    "doubled commas": ('{"a": [1,,2],, "b": 2}', {"a": [1, 2], "b": 2}),
    "brackets that do not match": ('{"a": [1, {"b": 2]}', {"a": [1, {"b": 2}]}),
    "brackets that nobody opened": ('{"a": 1], "b": 2}', {"a": 1, "b": 2}),
    "an open string": ('{"a": "x', {"a": "x"}),
    "an open escape": ('{"a": "x\\', {"a": "x\\"}),
    "an open key": ('{"a": 1, "b', {"a": 1, "b": None}),
    "open brackets": ('{"a": [1, {"b": 2, ', {"a": [1, {"b": 2}]}),
    "an open word": ('{"a": tru', {"a": "tru"}),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_repairs(name):
    """Forms that can mean only one thing."""
    text, expected = REPAIRED[name]
    out, rest, guessed = read([text])

    assert expected == parsed(out)
    assert (rest, guessed) == ("", False)


@pytest.mark.parametrize("name", GUESSED)
def test_guesses(name):
    """Forms that probably mean what is made of them."""
    text, expected = GUESSED[name]
    out, _, guessed = read([text])

    assert expected == parsed(out)
    assert guessed


def test_depth_is_bounded():
    """Parsers that call themselves for every level take what comes out."""
    out, _, guessed = read(['{"a": ' + "[" * 5000 + "]" * 5000 + "}"])

    assert parsed(out)
    assert guessed
    assert out.count("[") < MAX_DEPTH


def test_looking_ahead_is_bounded_and_the_same_for_every_split():
    """White space without end behind a quotation mark is not waited for."""
    for text in ('{"a": "x"' + " " * 1000 + "y", '{"a": "x",' + "\n" * 1000 + "y", '{"a": "x", ' + "b" * 1000 + "!"):
        assert read([text]) == read(list(text))


def calls_made(text: str) -> int:
    """How many functions are called to read a text, built-in ones among them."""
    made = 0

    def count(frame, event, argument):
        nonlocal made
        made += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        read([text])
    finally:
        sys.setprofile(before)
    return made


@pytest.mark.parametrize("unit", ['"a" ', '"', "\\", "[", "]", ", ", "x ", '": ', "\n", "{", "'", '\\"', '"\n', '", x'])
def test_work_grows_with_the_text(unit):
    """Twice the text is twice the work."""
    once, twice = (calls_made('{"a": "' + unit * count) for count in (1_000, 2_000))

    assert twice < 2.2 * once + 200
