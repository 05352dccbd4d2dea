"""Regular expressions are refused for what they would cost, and for what has no automaton."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.router.guides.regex_cost import RegexError, check_regex


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "^[a-z0-9._%+-]+@[a-z]{2,6}$",
        r"\d{4}-\d{2}-\d{2}",
        r"(?i)(yes|no)",
        r"(?:a|(b))*?(?P<name>c)(?<other>d)(?i:e)",
        r"[]\]a-z^]+",
        r"[^\]]",
        r"\(\[\{",
        "a{0}b{,5}c{2,}",
        "(a{100}){100}",
        r"\p{L}+",
        "{",
    ],
)
def test_expressions_that_can_be_followed(pattern):
    """The usual ones."""
    check_regex(pattern)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("x" * 8193, "8,193 characters"),
        ("(a{1000}){1000}", "states"),
        ("((a{40}b){40}c){40}", "states"),
        ("a{999999999}", "states"),
        ("(a{300}){300}", "states"),
        ("a{300}{300}", "states"),
        ("(?=a)", "look-around at character 0"),
        ("a(?!b)", "look-around at character 1"),
        ("(?<=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "reference back"),
        ("(?P=name)", "not known"),
        ("(?#x)", "not known"),
        ("(a", "nothing closes at character 0"),
        ("a)", "closes nothing at character 1"),
        ("[a", "nothing closes at character 0"),
        ("a\\", "a backslash at the end"),
        ("a{5,2}", "5 is more than 2"),
        ("(" * 51, "groups inside each other"),
    ],
)
def test_expressions_that_cannot(pattern, words):
    """The message says why, and where."""
    with pytest.raises(RegexError, match=words):
        check_regex(pattern)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.text("ab()[]{}\\|*+?^$,.0129:<=!P-i", max_size=20))
def test_any_text_is_taken_or_refused(pattern):
    """Never another error."""
    with contextlib.suppress(RegexError):
        check_regex(pattern)
