"""Results reach the model in the order of the calls that they belong to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.text.tool_results import ToolResultError, in_call_order

USER = {"role": "user", "content": "x"}


def calls(*ids: str | None) -> dict[str, Any]:
    made = [{"type": "function", **({"id": each} if each else {})} for each in ids]
    return {"role": "assistant", "content": "", "tool_calls": made}


def result(content: str, call_id: str | None = None) -> dict[str, Any]:
    plain = {"role": "tool", "content": content}
    return {**plain, "tool_call_id": call_id} if call_id else plain


def contents(messages: list[dict[str, Any]]) -> str:
    return "".join(message["content"] for message in in_call_order(messages))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([calls("P", "R"), result("r", "R"), result("p", "P")], "pr"),
        ([calls("P", "R"), result("p", "P"), result("r", "R")], "pr"),
        ([USER, calls("P", "R"), result("r", "R"), result("p", "P"), USER], "xprx"),
        # Every run has its own calls.
        (
            [calls("A", "B"), result("b", "B"), result("a", "A"), calls("A", "C"), result("c", "C"), result("a", "A")],
            "abac",
        ),
        # Results may be missing.
        ([calls("A", "B", "C"), result("c", "C"), result("a", "A")], "ac"),
        # Without ids the order is the client's.
        ([calls("A", "B"), result("1"), result("2")], "12"),
        ([calls(None, None), result("2", "B"), result("1", "A")], "21"),
        ([calls("A", None), result("2", "B"), result("1", "A")], "21"),
        # One without an id takes the call that is left.
        ([calls("A", "B", "C"), result("1"), result("c", "C"), result("a", "A")], "a1c"),
        ([calls("A"), result("1"), result("2"), result("a", "A")], "a12"),
        # Ids that are the same for several calls.
        ([calls("A", "A", "B"), result("b", "B"), result("1", "A"), result("2", "A")], "12b"),
        # Results that follow no calls are as they are.
        ([USER, result("2", "B"), result("1", "A")], "x21"),
        ([result("2", "B"), calls("A")], "2"),
        ([calls("A", "B"), USER, result("b", "B"), result("a", "A")], "xba"),
    ],
)
def test_order(messages, expected):
    """By id where there are ids, and as sent where there are none."""
    before = [dict(message) for message in messages]

    assert contents(messages) == expected
    assert messages == before


@pytest.mark.parametrize(
    ("messages", "index", "words"),
    [
        ([USER, calls("A", "B"), result("a", "A"), result("c", "C")], 3, r"'C' is the id of no call in messages\[1\]"),
        ([calls("A", "B"), result("a", "A"), result("a", "A")], 2, "the call 'A' has a result already"),
        ([calls("A"), result("x", "y" * 10_000)], 1, "'y{100}' is the id of no call"),
    ],
)
def test_ids_that_fit_no_call_are_named(messages, index, words):
    """With the message that they are in."""
    with pytest.raises(ToolResultError, match=f"^{words}") as refused:
        in_call_order(messages)

    assert index == refused.value.message_index
    assert len(refused.value.message) < 200


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.permutations("abcdef"), st.integers(0, 6))
def test_any_order_becomes_that_of_the_calls(sent, missing):
    """However results come in, and whichever are missing."""
    sent = sent[missing:]
    messages = [calls(*"abcdef"), *(result(each, each) for each in sent)]

    assert contents(messages) == "".join(sorted(sent))
