"""The JSON document of a run: what was measured, on what, how, and what is doubtful about it.

`schema` names the form. Fields are only ever added to it; a change of meaning gets a new name.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.bench.findings import Finding
from qwenserve.bench.measures import Distribution, Figures, spread
from qwenserve.bench.meter import Usage, describe_machine, describe_versions
from qwenserve.bench.record import Record

SCHEMA = "qwenserve.bench/1"

# The figures that summarise a run: path in the document's figures, unit, and whether more is better.
HEADLINES: Sequence[tuple[str, str, bool]] = (
    ("output_tokens_per_s", "tok/s", True),
    ("requests_per_s", "1/s", True),
    ("goodput_per_s", "1/s", True),
    ("ttft_ms.p50", "ms", False),
    ("ttft_ms.p99", "ms", False),
    ("tpot_ms.p50", "ms", False),
    ("tpot_ms.p99", "ms", False),
    ("itl_ms.p50", "ms", False),
    ("itl_ms.p99", "ms", False),
    ("e2e_ms.p50", "ms", False),
    ("e2e_ms.p99", "ms", False),
)


class Measured(NamedTuple):
    """One run: its figures, what the client's process did, and what is doubtful."""

    figures: Figures
    usage: Usage
    findings: Sequence[Finding]
    records: Sequence[Record] = ()

    @property
    def client_us_per_event(self) -> float:
        """The load client's CPU, in microseconds per content event."""
        return self.usage.cpu_s / self.figures.events * 1e6 if self.figures.events else 0.0


def make_document(
    kind: str, method: str, parameters: Mapping[str, Any], runs: Sequence[Measured], *, with_requests: bool = False
) -> dict[str, Any]:
    """Returns the document of one command's runs."""
    return {
        **preamble(kind, method, parameters),
        "summary": summarise([run.figures for run in runs]),
        "findings": [finding.as_json() for finding in merge_findings(runs)],
        "runs": [_run_json(run, with_requests) for run in runs],
    }


def preamble(kind: str, method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what every document begins with."""
    return {
        "schema": SCHEMA,
        "kind": kind,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "method": method,
        "parameters": dict(parameters),
        "machine": describe_machine(),
        "versions": describe_versions(),
    }


def summarise(runs: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """Returns median and range of each headline figure over the runs."""
    plain = [figures.as_json() for figures in runs]
    summary = {}
    for path, _, _ in HEADLINES:
        values = [value for figures in plain if (value := look_up(figures, path)) is not None]
        if values:
            summary[path] = spread(values)._asdict()
    return summary


def look_up(figures: Mapping[str, Any], path: str) -> float | None:
    """Returns the value at a dotted path; None where there is none, or where it stands for no data."""
    value: Any = figures
    for part in path.split("."):
        if isinstance(value, Mapping) and value.get("n") == 0:
            return None
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def merge_findings(runs: Sequence[Measured]) -> list[Finding]:
    """Returns each kind of finding once: the first run's that has it, saying in how many runs it occurred."""
    merged: dict[str, Finding] = {}
    seen: dict[str, int] = {}
    for run in runs:
        for finding in run.findings:
            merged.setdefault(finding.code, finding)
            seen[finding.code] = seen.get(finding.code, 0) + 1
    if len(runs) == 1:
        return list(merged.values())
    return [
        finding._replace(
            text=f"in {seen[finding.code]} of {len(runs)} runs: {finding.text}",
            values={**finding.values, "runs": seen[finding.code]},
        )
        for finding in merged.values()
    ]


def _run_json(run: Measured, with_requests: bool) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "figures": run.figures.as_json(),
        "client": {**run.usage._asdict(), "us_per_event": run.client_us_per_event},
        "findings": [finding.as_json() for finding in run.findings],
    }
    if with_requests:
        plain["requests"] = [request_row(record) for record in run.records]
    return plain


def request_row(record: Record) -> dict[str, Any]:
    """Returns one request as plain values; times in milliseconds."""
    ttft, tpot = record.ttft, record.tpot
    return {
        "index": record.index,
        "lateness_ms": record.lateness * 1e3,
        "ttft_ms": None if ttft is None else ttft * 1e3,
        "tpot_ms": None if tpot is None else tpot * 1e3,
        "e2e_ms": record.e2e * 1e3,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.tokens,
        "cached_tokens": record.cached_tokens,
        "events": record.events,
        "finish_reason": record.finish_reason,
        "error": record.error,
    }


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    """Writes a document. Raises OSError."""
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_document(file: Path) -> dict[str, Any]:
    """Reads a document. Raises ValueError when it is none of ours, OSError."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: no JSON: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"{file}: not a result of this tool (schema {SCHEMA})")
    return document


def write_csv(file: Path, runs: Sequence[Measured]) -> None:
    """Writes one row per request of all runs. Raises OSError."""
    rows = [{"run": number, **request_row(record)} for number, run in enumerate(runs) for record in run.records]
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else ["run"])
        writer.writeheader()
        writer.writerows(rows)


def distributions(figures: Figures) -> Sequence[tuple[str, Distribution]]:
    """Returns the latencies of a run with their names, in the order that reports show."""
    return (
        ("TTFT ms", figures.ttft_ms),
        ("TPOT ms", figures.tpot_ms),
        ("ITL ms", figures.itl_ms),
        ("E2E ms", figures.e2e_ms),
    )
