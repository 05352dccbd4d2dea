"""docs/engines.md has the table that the engines' declarations make."""

from __future__ import annotations

import pytest

from tests.contract.table import ENGINES, PAGE, columns, parsed, rendered, rows, written


def test_the_page_is_current() -> None:
    """Of every engine that can be made here."""
    page = written()
    for name, column in columns():
        assert page[name] == column, f"{name} in {PAGE.name}: run python -m tests.contract.table"


def test_what_is_written_is_read_again() -> None:
    column = dict.fromkeys(rows(), "exact") | {"seed": "no", "top_k": "differs. So much; of it"}
    table = dict.fromkeys(ENGINES, dict.fromkeys(rows(), "exact")) | {"vllm": column}
    assert parsed(rendered(table)) == table


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_has_a_column_without_gaps(name: str) -> None:
    assert written()[name].keys() == set(rows())
    assert "?" not in written()[name].values()
