"""What `qwenserve top` shows: lines and a table, from looks at the routers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.cli.top.metrics import Look, Span, quantile, rate, rates_by, total, values_by

_HEADER = ("WORKER", "STATE", "RUNNING", "MOST", "WAITING", "PROMPT TOKENS AHEAD", "KV USED", "STEPS/S", "LOST")


class View(NamedTuple):
    """One screen. `summary` has a name and a text for each line."""

    summary: Sequence[tuple[str, str]]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def view_of(spans: Sequence[Span], unreachable: Sequence[str]) -> View:
    """Returns the screen. Without any span there are no numbers, only who was not reached."""
    looks = [span.now for span in spans]
    routers = f"{len(looks)} seen, {total(looks, 'qwenserve_ready'):.0f} ready"
    if unreachable:
        routers += f"; not reached: {', '.join(unreachable)}"
    prompt, cached = rate(spans, "qwenserve_prompt_tokens_total"), rate(spans, "qwenserve_cached_tokens_total")
    errors = _errors(spans)
    summary = [
        ("routers", routers),
        ("answers", f"{total(looks, 'qwenserve_running_requests'):.0f} running, "
         f"{rate(spans, 'qwenserve_requests_total'):.1f}/s, "
         f"{total(looks, 'qwenserve_waiting_continuations'):.0f} waiting to go on"),
        ("tokens", f"{rate(spans, 'qwenserve_completion_tokens_total'):,.0f}/s generated, {prompt:,.0f}/s read"
         + (f", {100 * cached / prompt:.0f} % cached" if prompt else "")),
        ("first token", _quantiles(spans, "qwenserve_time_to_first_token_seconds")),
        ("between tokens", _quantiles(spans, "qwenserve_inter_token_seconds")),
        ("errors", errors or "none"),
        ("memory", f"{total(looks, 'process_resident_memory_bytes') / 1e6:,.0f} MB in routers"),
    ]  # fmt: skip
    return View(summary, _HEADER, _worker_rows(looks, spans))


def _errors(spans: Sequence[Span]) -> str:
    found = {reason: each for reason, each in rates_by(spans, "qwenserve_errors_total", "reason").items() if each > 0}
    return ", ".join(f"{reason.lower()} {each:.1f}/s" for reason, each in sorted(found.items()))


def _quantiles(spans: Sequence[Span], histogram: str) -> str:
    told = [(name, quantile(share, spans, histogram)) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))]
    shown = [f"{name} {1000 * value:,.1f} ms" for name, value in told if value is not None]
    return ", ".join(shown) or "-"


def _worker_rows(looks: Sequence[Look], spans: Sequence[Span]) -> list[Sequence[str]]:
    def told(metric: str) -> dict[str, float]:
        return values_by(looks, f"qwenserve_worker_{metric}", "worker")

    ready, running, most, waiting = told("ready"), told("running"), told("max_running"), told("queued")
    ahead, free, blocks = told("pending_prompt_tokens"), told("free_kv_blocks"), told("total_kv_blocks")
    steps, connections = (
        rates_by(spans, "qwenserve_worker_engine_steps_total", "worker"),
        told("connections_total"),
    )
    return [
        (
            name,
            "ready" if ready[name] else "not ready",
            f"{running.get(name, 0):.0f}",
            f"{most[name]:.0f}" if name in most else "-",
            f"{waiting.get(name, 0):.0f}",
            f"{ahead.get(name, 0):,.0f}",
            f"{100 * (1 - free[name] / blocks[name]):.0f} %" if blocks.get(name) else "-",
            f"{steps.get(name, 0):,.0f}",
            f"{max(0, connections.get(name, 0) - 1):.0f}",
        )
        for name in sorted(ready)
    ]
