"""The quick ways to JSON text write what the public ones do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenserve.runtime.json_text import new_encoder, public_encoder, public_quoted, quoted

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_any_value(value: object) -> None:
    """Numbers, texts, what JSON has no form for, and everything that holds them."""
    assert public_encoder()(value) == new_encoder()(value)


@given(st.text())
def test_any_text(text: str) -> None:
    """Quoted, and read back as it was."""
    assert public_quoted(text) == quoted(text)
    assert text == json.loads(quoted(text))


@pytest.mark.parametrize("text", ["", '"', "\\", "\n\t\0\x1f\x7f", "é 天 🌦️", "\ud83d", "\u2028"])
def test_texts_with_escapes(text: str) -> None:
    """Only what must be escaped is."""
    assert public_quoted(text) == quoted(text)


def test_in_a_python_that_nobody_has_looked_at() -> None:
    """The public encoder writes the same."""
    script = (
        "import datetime, sys; sys.version_info = (9, 0)\n"
        "from qwenserve.runtime.json_text import new_encoder, public_quoted, quoted\n"
        "assert quoted is public_quoted\n"
        "print(ascii(new_encoder()({'é': [1.5, datetime.date(2026, 1, 2), None]}) + quoted('天\\n')))"
    )

    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert new_encoder()({"é": [1.5, date(2026, 1, 2), None]}) + quoted("天\n") == ast.literal_eval(shown.stdout)
