"""What makes a figure doubtful. Each check is pure and says what was seen, and what to do about it.

Findings are printed beside the figures and stored with them; `--strict` turns them into a failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from qwenserve.bench.measures import Figures
from qwenserve.bench.meter import Usage
from qwenserve.bench.record import Record

# Above this share of one core the client's own queueing is part of every latency that it measures.
_CLIENT_CPU_SHARE = 0.8
# A loop that is late by this much adds as much to the latencies.
_LOOP_LAG_P99_MS = 5.0
_LATENESS_P99_MS = 10.0
_LENGTH_TOLERANCE = 0.01
_CACHED_SHARE = 0.01
_STEAL_SHARE = 0.02
_MERGED_EVENTS = 1.05
_FEW_REQUESTS = 30


class Finding(NamedTuple):
    """One reason for doubt. `code` never changes its meaning; `values` are the numbers in `text`."""

    code: str
    text: str
    values: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Returns plain values for the JSON document."""
        return {"code": self.code, "text": self.text, "values": dict(self.values)}


class Intent(NamedTuple):
    """What the run meant to do. `open_loop`: requests have a schedule. `expects_cache`: the dataset shares prefixes
    on purpose. `exact_lengths`: answers were told to run to their limit."""

    open_loop: bool
    concurrency: int | None
    repeated_prompts: int
    expects_cache: bool
    exact_lengths: bool


def examine(figures: Figures, records: Sequence[Record], usage: Usage, intent: Intent) -> list[Finding]:
    """Returns everything doubtful about one run."""
    checks = (
        client_saturated(usage),
        late_sends(figures, intent),
        held_back(figures, intent),
        cpu_taken_away(usage),
        unequal_lengths(records, intent),
        unknown_lengths(records),
        warm_cache(figures, intent),
        repeated(figures, intent),
        merged_events(figures),
        prompt_mismatch(records),
        failures(figures),
        server_throttles(figures),
        few(figures),
    )
    return [finding for finding in checks if finding is not None]


def client_saturated(usage: Usage) -> Finding | None:
    """The load client had no CPU to spare, or its event loop was late."""
    reasons = []
    if usage.cpu_share > _CLIENT_CPU_SHARE:
        reasons.append(f"it used {usage.cpu_share:.0%} of a core")
    if usage.lag_p99_ms > _LOOP_LAG_P99_MS:
        reasons.append(f"its event loop was {usage.lag_p99_ms:.1f} ms late at p99")
    if not reasons:
        return None
    return Finding(
        "CLIENT_SATURATED",
        f"the load client was a bottleneck: {' and '.join(reasons)}; latencies are overstated and throughput is "
        "understated. Give it a core of its own, or less load.",
        {"cpu_share": usage.cpu_share, "loop_lag_p99_ms": usage.lag_p99_ms},
    )


def late_sends(figures: Figures, intent: Intent) -> Finding | None:
    """Requests left later than the schedule says."""
    late = figures.lateness_ms
    if not intent.open_loop or late.p99 <= _LATENESS_P99_MS:
        return None
    return Finding(
        "LATE_SENDS",
        f"requests were sent later than scheduled: {late.p50:.1f} ms at p50, {late.p99:.1f} ms at p99. Latencies count "
        "from the send, so what a caller would have waited before it is not in them.",
        {"lateness_p50_ms": late.p50, "lateness_p99_ms": late.p99},
    )


def held_back(figures: Figures, intent: Intent) -> Finding | None:
    """A concurrency limit was reached although the load was given as a rate."""
    if not intent.open_loop or intent.concurrency is None or figures.peak_concurrency < intent.concurrency:
        return None
    return Finding(
        "CONCURRENCY_LIMITED",
        f"the limit of {intent.concurrency} requests at a time was reached: the server was offered less than the rate "
        "asked for.",
        {"concurrency": intent.concurrency},
    )


def cpu_taken_away(usage: Usage) -> Finding | None:
    """The control group or the hypervisor kept this machine from its CPU."""
    throttled = usage.throttled_s or 0.0
    steal = usage.steal_s or 0.0
    if throttled <= 0.01 * usage.wall_s and steal <= _STEAL_SHARE * usage.wall_s:
        return None
    return Finding(
        "CPU_TAKEN_AWAY",
        f"CPU was taken away during the run: {throttled:.2f} s by the control group's limit, {steal:.2f} s by the "
        f"hypervisor, in {usage.wall_s:.1f} s.",
        {"throttled_s": throttled, "steal_s": steal, "wall_s": usage.wall_s},
    )


def unequal_lengths(records: Iterable[Record], intent: Intent) -> Finding | None:
    """Answers were not as long as asked, though they were told to be."""
    pairs = [(r.asked_tokens, r.completion_tokens) for r in records if not r.error and r.completion_tokens]
    wrong = [(asked, got) for asked, got in pairs if abs(got - asked) > _LENGTH_TOLERANCE * asked]
    if not wrong or not intent.exact_lengths:
        return None
    shares = [got / asked for asked, got in wrong]
    return Finding(
        "UNEQUAL_OUTPUT_LENGTHS",
        f"{len(wrong)} of {len(pairs)} answers were not as long as asked ({min(shares):.0%} to {max(shares):.0%} of "
        "it): throughput and latencies cannot be compared with a run whose answers had other lengths. Does the server "
        "honour ignore_eos?",
        {"answers": len(pairs), "wrong": len(wrong), "least_share": min(shares), "most_share": max(shares)},
    )


def unknown_lengths(records: Iterable[Record]) -> Finding | None:
    """The server reported no token counts, so events are counted instead."""
    unknown = sum(1 for r in records if not r.error and not r.completion_tokens)
    if not unknown:
        return None
    return Finding(
        "NO_TOKEN_COUNTS",
        f"{unknown} answers came without usage: events were counted as tokens.",
        {"answers": unknown},
    )


def warm_cache(figures: Figures, intent: Intent) -> Finding | None:
    """The server had prompt tokens cached that the dataset did not mean to share."""
    cached = figures.cached_tokens or 0
    share = cached / figures.prompt_tokens if figures.prompt_tokens else 0.0
    if intent.expects_cache or share <= _CACHED_SHARE:
        return None
    return Finding(
        "WARM_CACHE",
        f"{share:.1%} of the prompt tokens came from the server's cache, though the dataset shares none on purpose: "
        "time to first token is better than with new prompts. Take another --seed, or restart the server.",
        {"cached_tokens": cached, "prompt_tokens": figures.prompt_tokens},
    )


def repeated(figures: Figures, intent: Intent) -> Finding | None:
    """The same prompt was sent more than once."""
    if not intent.repeated_prompts or intent.expects_cache:
        return None
    known = "" if figures.cached_tokens is not None else "; the server does not report cached tokens"
    return Finding(
        "REPEATED_PROMPTS",
        f"{intent.repeated_prompts} prompts were sent before in the same run: caches may have answered{known}.",
        {"repeated": intent.repeated_prompts},
    )


def merged_events(figures: Figures) -> Finding | None:
    """Events carried several tokens, so gaps between events are no gaps between tokens."""
    if not figures.events or figures.output_tokens / figures.events <= _MERGED_EVENTS:
        return None
    ratio = figures.output_tokens / figures.events
    return Finding(
        "MERGED_EVENTS",
        f"an event carried {ratio:.2f} tokens on average: ITL is the gap between events, TPOT counts tokens.",
        {"tokens_per_event": ratio},
    )


def prompt_mismatch(records: Iterable[Record]) -> Finding | None:
    """Prompts had another length than the dataset meant."""
    off = [
        r.prompt_tokens - r.expected_prompt_tokens
        for r in records
        if not r.error and r.prompt_tokens and r.expected_prompt_tokens and r.prompt_tokens != r.expected_prompt_tokens
    ]
    if not off:
        return None
    return Finding(
        "PROMPT_LENGTHS_OFF",
        f"{len(off)} prompts were {min(off):+d} to {max(off):+d} tokens off the length asked for.",
        {"prompts": len(off), "least": min(off), "most": max(off)},
    )


def failures(figures: Figures) -> Finding | None:
    """Requests failed, and are in no latency."""
    if not figures.failed:
        return None
    reasons = ", ".join(f"{count}× {reason}" for reason, count in figures.errors.items())
    return Finding(
        "FAILED_REQUESTS",
        f"{figures.failed} of {figures.sent} requests failed and are in no latency: {reasons}.",
        {"failed": figures.failed, "sent": figures.sent},
    )


def server_throttles(figures: Figures) -> Finding | None:
    """The server refused requests for coming too fast."""
    refused = sum(
        count for reason, count in figures.errors.items() if reason.startswith(("HTTP 429", "RESOURCE_EXHAUSTED"))
    )
    if not refused:
        return None
    return Finding(
        "SERVER_THROTTLES",
        f"the server refused {refused} requests because of load or a rate limit: the figures are of the rest.",
        {"refused": refused},
    )


def few(figures: Figures) -> Finding | None:
    """Too few requests for the percentiles that are shown."""
    if figures.succeeded >= _FEW_REQUESTS:
        return None
    return Finding(
        "FEW_REQUESTS",
        f"{figures.succeeded} requests succeeded: p90 and p99 of so few are the worst ones, not percentiles.",
        {"succeeded": figures.succeeded},
    )


def slow_interpreter(machine: Mapping[str, Any]) -> Finding | None:
    """Everything that runs in this interpreter was built without a profile."""
    if machine["python_build"] != "plain":
        return None
    return Finding(
        "SLOW_INTERPRETER",
        f"Python {machine['python']} was built without --enable-optimizations (as pyenv does it): it takes 20 to 40 % "
        "more CPU for the same code, so these figures do not compare with those of a usual interpreter.",
        {"python": machine["python"], "python_build": machine["python_build"]},
    )
