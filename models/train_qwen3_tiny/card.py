"""Writes what an evaluation found: results.json, and the table and failures in the model card."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from models.train_qwen3_tiny.cases import Report

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
SHOWN = 20
ROOM = 150  # characters of a question, an expectation or a reply in the card


def results(folder: Path, found: Report) -> dict[str, Any]:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    rows = [{"metric": metric, "right": good, "cases": total} for metric, (good, total) in found.scores.items()]
    failures = [failure._asdict() for failure in worst(found)]
    return {"model_sha256": digest, "scores": rows, "failures": failures}


def worst(found: Report) -> list[Any]:
    """Failures in turn from the metrics that do worst, so that no metric fills the list alone."""
    rates = {metric: good / total for metric, (good, total) in found.scores.items()}
    order = sorted({failure.metric for failure in found.failures}, key=rates.__getitem__)
    queues = [[failure for failure in found.failures if failure.metric == metric] for metric in order]
    out: list[Any] = []
    while len(out) < SHOWN and any(queues):
        out += [queue.pop(0) for queue in queues if queue]
    return out[:SHOWN]


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| metric | right | n |", "| --- | --- | --- |"]
    for row in rows:
        share = 100 * row["right"] / row["cases"]
        lines.append(f"| {row['metric']} | {share:.1f} % | {row['cases']} |")
    return "\n".join(lines)


def failure_list(failures: list[dict[str, str]]) -> str:
    if not failures:
        return "None of the cases failed."
    return "\n".join(
        f"{i}. {row['metric']}. Asked: {_quoted(row['question'])}; expected: {_quoted(row['expected'])}; "
        f"got: {_quoted(row['reply'])}"
        for i, row in enumerate(failures, 1)
    )


def _quoted(text: str) -> str:
    flat = " ".join(text.split()).replace("`", "'")
    return f"`{flat if len(flat) <= ROOM else '… ' + flat[-ROOM:]}`"


def section(found: dict[str, Any]) -> str:
    """The generated part of the card, between its two marks."""
    return "\n\n".join(
        (BEGIN, table(found["scores"]), "### The 20 worst failures", failure_list(found["failures"]), END)
    )


def write(folder: Path, found: Report) -> None:
    made = results(folder, found)
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    (folder / "results.json").write_text(text, encoding="utf-8")
    card = folder / "README.md"
    before, _, rest = card.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    card.write_text(before + section(made) + after, encoding="utf-8")
