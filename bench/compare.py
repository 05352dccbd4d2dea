"""`bench compare A B`: two results side by side, and whether they may be compared at all. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qwenserve.bench.document import HEADLINES
from qwenserve.bench.findings import Finding

_LENGTH_TOLERANCE = 0.01
# Keys of `parameters` that make two runs different experiments.
_MUST_AGREE = ("api", "dataset", "load", "generation", "slo")


class Row(NamedTuple):
    """One figure of both. `change` is relative to A; `better` is None within the ranges of repeated runs."""

    name: str
    unit: str
    a: float
    b: float
    change: float
    better: bool | None


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Row]:
    """Returns the figures that both have."""
    rows = []
    for path, unit, more_is_better in HEADLINES:
        left, right = a["summary"].get(path), b["summary"].get(path)
        if left is None or right is None:
            continue
        change = right["median"] / left["median"] - 1 if left["median"] else 0.0
        overlap = left["least"] <= right["most"] and right["least"] <= left["most"]
        better = None if overlap or not change else (change > 0) == more_is_better
        rows.append(Row(path, unit, left["median"], right["median"], change, better))
    return rows


def doubts(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Finding]:
    """Returns what makes the comparison doubtful, the findings of both results included."""
    found = [*_differences(a, b), *_lengths(a, b)]
    if min(len(a["runs"]), len(b["runs"])) < 3:
        found.append(
            Finding(
                "FEW_RUNS",
                f"A has {len(a['runs'])} and B {len(b['runs'])} runs: with fewer than 3 a difference cannot be told "
                "from noise. Use --repeat, and measure A and B in turn.",
                {"a": len(a["runs"]), "b": len(b["runs"])},
            )
        )
    for side, document in (("A", a), ("B", b)):
        found += [Finding(one["code"], f"{side}: {one['text']}", one["values"]) for one in document["findings"]]
    return found


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Sequence[Finding]:
    found = []
    different = [key for key in _MUST_AGREE if a["parameters"].get(key) != b["parameters"].get(key)]
    if different:
        found.append(
            Finding(
                "DIFFERENT_EXPERIMENTS",
                f"A and B differ in {', '.join(different)}: a difference in figures may come from there.",
                {"keys": different},
            )
        )
    machine = [key for key in a["machine"] if a["machine"][key] != b["machine"].get(key)]
    if machine:
        found.append(
            Finding("DIFFERENT_MACHINES", f"A and B differ in the machine's {', '.join(machine)}.", {"keys": machine})
        )
    return found


def _lengths(a: Mapping[str, Any], b: Mapping[str, Any]) -> Sequence[Finding]:
    means = [_mean_output(document) for document in (a, b)]
    if not all(means) or abs(means[1] / means[0] - 1) <= _LENGTH_TOLERANCE:
        return ()
    text = f"answers were {means[0]:.1f} tokens long in A and {means[1]:.1f} in B: throughput and E2E do not compare."
    return (Finding("UNEQUAL_OUTPUT_LENGTHS", text, {"a": means[0], "b": means[1]}),)


def _mean_output(document: Mapping[str, Any]) -> float:
    lengths = [run["figures"]["output_length"] for run in document["runs"] if "figures" in run]
    total = sum(one["n"] for one in lengths)
    return sum(one["mean"] * one["n"] for one in lengths) / total if total else 0.0
