"""The tier's table: each figure with its goal beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from qwenserve.bench.measures import spread


class Row(NamedTuple):
    """One line. `values` has one figure per repetition; `goal` is the most that it may be (None: nothing to reach)."""

    key: str
    work: str
    unit: str
    values: Sequence[float]
    goal: float | None = None
    note: str = ""
    # True where more is better, and `goal` the least.
    at_least: bool = False

    @property
    def median(self) -> float:
        """The figure that counts."""
        return spread(self.values).median

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.median >= self.goal if self.at_least else self.median <= self.goal

    def as_json(self) -> dict[str, Any]:
        """Returns plain values for the JSON document."""
        return {**self._asdict(), "values": list(self.values), **spread(self.values)._asdict(), "met": self.met}


def ratio_row(key: str, work: str, a: Sequence[float], b: Sequence[float], *, goal: float | None) -> Row:
    """Returns A by B, paired by repetition: what disturbs the machine for a while disturbs both of a pair."""
    return Row(key, work, "ratio", [x / y for x, y in zip(a, b, strict=True)], goal, "paired by repetition")


def show(console: Console, rows: Sequence[Row]) -> None:
    """Prints the table."""
    table = Table(box=None, pad_edge=False)
    for column in ("work", "median", "range", "", "goal", "", "note"):
        table.add_column(column, justify="right" if column in ("median", "range", "goal") else "left")
    words: Mapping[bool | None, str] = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}
    for row in rows:
        values = spread(row.values)
        sign = "≥" if row.at_least else "≤"
        goal = "" if row.goal is None else f"{sign} {row.goal:g}"
        extent = f"{_short(values.least)}–{_short(values.most)}" if len(row.values) > 1 else ""
        table.add_row(row.work, _short(values.median), extent, row.unit, goal, words[row.met], row.note)
    console.print(table, soft_wrap=True)


def _short(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
