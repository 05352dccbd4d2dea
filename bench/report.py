"""What a terminal shows: figures with their method beside them, and what is doubtful about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from qwenserve.bench.document import HEADLINES, Measured, distributions
from qwenserve.bench.findings import Finding

_BUILDS = {
    "optimized": "optimized build",
    "distribution": "a distribution's build",
    "plain": "not an optimized build",
}


def show_method(console: Console, document: Mapping[str, Any]) -> None:
    """Prints how the figures came to be, and on what."""
    machine, versions = document["machine"], document["versions"]
    build = _BUILDS[machine["python_build"]]
    console.print(f"[bold]Method[/]  {document['method']}", highlight=False, soft_wrap=True)
    console.print(
        f"[bold]Machine[/] {machine['cpu']}, {machine['usable_cores']} of {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['kernel']}, Python {machine['python']} ({build})",
        highlight=False,
        soft_wrap=True,
    )
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    console.print(f"[bold]Versions[/] {listed}\n", highlight=False, soft_wrap=True)


def show_run(console: Console, run: Measured) -> None:
    """Prints one run's figures."""
    figures = run.figures
    table = Table(box=None, pad_edge=False)
    for column in ("", "mean", "p50", "p90", "p99", "max"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in distributions(figures):
        if values.n:
            cells = (values.mean, values.p50, values.p90, values.p99, values.most)
            table.add_row(name, *(f"{cell:.2f}" for cell in cells))
    console.print(table)
    cached = "not reported" if figures.cached_tokens is None else f"{figures.cached_tokens}"
    console.print(
        f"{figures.succeeded} of {figures.sent} requests in {figures.duration_s:.2f} s: "
        f"{figures.requests_per_s:.2f} requests/s, {figures.output_tokens_per_s:.1f} output tokens/s, "
        f"{figures.prompt_tokens_per_s:.1f} prompt tokens/s",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"prompt tokens {figures.prompt_tokens} (cached: {cached}), output tokens {figures.output_tokens} in "
        f"{figures.events} events, most at a time {figures.peak_concurrency}",
        highlight=False,
        soft_wrap=True,
    )
    if figures.goodput_per_s is not None:
        console.print(
            f"goodput {figures.goodput_per_s:.2f} requests/s within the SLO ({figures.good_share or 0:.1%} of all)",
            highlight=False,
            soft_wrap=True,
        )
    for reason, count in figures.errors.items():
        console.print(f"  {count} × {reason}", highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"load client: {run.usage.cpu_share:.0%} of a core, {run.client_us_per_event:.1f} µs an event, event loop late "
        f"by {run.usage.lag_p99_ms:.1f} ms at p99\n",
        highlight=False,
        soft_wrap=True,
    )


def show_summary(console: Console, summary: Mapping[str, Mapping[str, float]], runs: int) -> None:
    """Prints medians and ranges of repeated runs."""
    table = Table(title=f"{runs} runs", box=None, pad_edge=False, title_justify="left")
    for column in ("", "median", "least", "most"):
        table.add_column(column, justify="left" if not column else "right")
    for path, unit, _ in HEADLINES:
        if path in summary:
            values = summary[path]
            table.add_row(f"{path} [{unit}]".replace("[", "\\["), *(f"{values[k]:.2f}" for k in values))
    console.print(table)


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Prints what is doubtful."""
    for finding in findings:
        console.print(f"[bold yellow]warning[/] {finding.code}: ", end="", highlight=False, soft_wrap=True)
        console.print(finding.text, highlight=False, soft_wrap=True, markup=False)
