from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.text.stop_strings import StopMatcher

STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=4).map(tuple)


def by_definition(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The match that ends first; of those that end together the longest."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[: end - len(stop)], stop
    return text, None


@settings(derandomize=True, max_examples=600, deadline=None)
@given(st.lists(st.text("abc\n", max_size=5), max_size=8), STOPS)
def test_matches_do_not_depend_on_the_deltas(deltas, stops):
    """Whatever the pieces are, the text ends where the definition says, and nothing of a match leaks."""
    matcher = StopMatcher(stops)
    out = ""
    for delta in deltas:
        if matcher.matched is None:
            out += matcher.push(delta)
            expected, _ = by_definition("".join(deltas), stops)
            assert expected.startswith(out)
    if matcher.matched is None:
        out += matcher.flush()

    assert by_definition("".join(deltas), stops) == (out, matcher.matched)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text("abc", max_size=12), STOPS)
def test_only_what_may_still_match_is_held(text, stops):
    """What is held is the beginning of a stop string."""
    matcher = StopMatcher(stops)
    out = matcher.push(text)
    if matcher.matched is None:
        held = text[len(out) :]
        assert matcher.holding == bool(held)
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


@pytest.mark.parametrize("character", list(r"^]\-[.*a"))
def test_characters_that_mean_something_in_expressions(character):
    """Stop strings are plain text."""
    matcher = StopMatcher((character + "!",))

    assert matcher.push("x" + character) == "x"
    assert matcher.push("!") == ""
    assert character + "!" == matcher.matched


def test_none_and_empty_ones_match_nothing():
    """An empty stop string is no stop string."""
    assert StopMatcher(()).push("text") == "text"
    assert StopMatcher(("",)).push("text") == "text"


def test_including_the_match():
    """The match itself may be part of the text."""
    matcher = StopMatcher(("b", "cb"), include=True)

    assert matcher.push("acbd") == "acb"
