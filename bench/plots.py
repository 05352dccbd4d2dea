"""PNG plots. Needs matplotlib, which only the extra `bench` brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenserve.bench.document import Measured, request_row


class NoPlots(Exception):
    """matplotlib is not installed. The text says how to get it."""


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError:
        raise NoPlots("plots need matplotlib; install it with: pip install 'qwenserve[bench]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def check() -> None:
    """Raises NoPlots where plots cannot be made: to be called before a long run, not after it."""
    _pyplot()


def plot_latencies(file: Path, runs: Sequence[Measured], method: str) -> None:
    """Draws the distributions of TTFT, TPOT, ITL and E2E, one line a run. Raises NoPlots, OSError."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    names = ("TTFT", "TPOT", "ITL", "E2E")
    for axis, name in zip(axes.flat, names, strict=True):
        for number, run in enumerate(runs):
            values = sorted(_values(name, run))
            if values:
                axis.plot(values, [(i + 1) / len(values) for i in range(len(values))], label=f"run {number}")
        axis.set(title=name, xlabel="ms", ylabel="share of " + ("events" if name == "ITL" else "requests"), ylim=(0, 1))
        axis.grid(alpha=0.3)
    if len(runs) > 1:
        axes.flat[0].legend()
    figure.suptitle(method, fontsize=8, wrap=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _values(name: str, run: Measured) -> list[float]:
    good = [record for record in run.records if not record.error]
    if name == "ITL":
        return [gap * 1e3 for record in good for gap in record.gaps()]
    rows = (request_row(record)[f"{name.lower()}_ms"] for record in good)
    return [float(value) for value in rows if value is not None]


def plot_sweep(file: Path, points: Sequence[Mapping[str, float]], knee: int | None, method: str) -> None:
    """Draws throughput against latency, one point per concurrency; the knee is marked. Raises NoPlots, OSError."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for axis, key, label in ((axes[0], "e2e_p50_ms", "E2E p50, ms"), (axes[1], "tpot_p50_ms", "TPOT p50, ms")):
        axis.plot([p[key] for p in points], [p["output_tokens_per_s"] for p in points], marker="o")
        for point in points:
            axis.annotate(f"{point['concurrency']:g}", (point[key], point["output_tokens_per_s"]), fontsize=8)
        if knee is not None:
            at = points[knee]
            axis.plot([at[key]], [at["output_tokens_per_s"]], marker="o", markersize=14, fillstyle="none", color="red")
        axis.set(xlabel=label, ylabel="output tokens/s")
        axis.grid(alpha=0.3)
    figure.suptitle(method, fontsize=8, wrap=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
