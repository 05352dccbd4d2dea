"""Rows about what the tier adds to latencies: p99 through the router minus p99 of the same load on the workers alone.

The load is the one at which the router uses half of its core, unless worker or client would be short of CPU before:
what they are late by is no cost of the tier. An engine steps on a beat, and all its requests' tokens come at once;
where there are cores for it, several workers stand behind the router, as in a deployment, each with a beat of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench.datasets.vocabulary import Vocabulary
from bench.findings import Finding, client_saturated
from bench.load import Load
from bench.measures import distribution, spread
from bench.meter import MachineTimes, Usage, machine_times
from bench.tier.burden import Surroundings, TierError, burden, doubts, worker_saturated
from bench.tier.context import ANSWER_TOKENS, STREAMS, Context, chat_endpoint, words
from bench.tier.cores import Cores, workers_beside
from bench.tier.load_processes import LoadProcesses, Part, load_processes
from bench.tier.stack import Stack, StackSettings, deployment
from bench.tier.table import Row

STEP_MS = 10.0
HALF_CORE = "half of the router's core"
_ROUTER_SHARE = 0.5
_OTHERS_SHARE = 0.6
# Two processes on one core wait for each other long before it is full.
_SHARED_SHARE = 0.25
_MOST_STREAMS = 1000
_MOST_CLIENTS = 4


class Cost(NamedTuple):
    """CPU of each side in microseconds per token."""

    router: float
    worker: float
    client: float


class Pace(NamedTuple):
    """Requests per second, and what kept it from being more."""

    rate: float
    limit: str


def choose_pace(cost: Cost, *, workers: int, clients: int, apart: bool) -> Pace:
    """Returns the rate at which the router uses half of its core, or the highest at which worker and client stay under
    60 % of theirs. `apart`: every worker and client process has a core of its own; else all of them share one, and stay
    under 25 % of it."""
    limits = {
        HALF_CORE: _ROUTER_SHARE * 1e6 / cost.router,
        "streams that the workers take": workers * _MOST_STREAMS * 1000 / STEP_MS,
    }
    if apart:
        limits["60 % of the workers' cores"] = _OTHERS_SHARE * 1e6 * workers / cost.worker
        limits["60 % of the client's cores"] = _OTHERS_SHARE * 1e6 * clients / cost.client
    else:
        limits["25 % of the core that worker and client share"] = _SHARED_SHARE * 1e6 / (cost.worker + cost.client)
    limit = min(limits, key=limits.__getitem__)
    return Pace(limits[limit] / ANSWER_TOKENS, limit)


def client_cores(cores: Cores) -> Sequence[frozenset[int]]:
    """Returns where each process of the load client runs: one core each and at most four, or one on what is shared."""
    if not cores.all_apart:
        return [cores.client]
    return [frozenset({core}) for core in sorted(cores.client)[:_MOST_CLIENTS]]


class _Times(NamedTuple):
    """One load: p99 in milliseconds, the CPU of routers and workers as shares of a core, and what disturbed."""

    first_token_ms: float
    gap_ms: float
    router_share: float
    worker_share: float
    surroundings: Surroundings
    # Of the client process whose event loop was latest.
    client: Usage


async def latency_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """Added to the first token and between tokens."""
    cores = context.share_out(workers=workers_beside(context.physical, 1))
    clients = client_cores(cores)
    through: list[_Times] = []
    direct: list[_Times] = []
    async with (
        deployment(StackSettings(context.model, STEP_MS), cores) as stack,
        load_processes(clients) as processes,
    ):
        vocabulary = await words(stack)
        pace = choose_pace(
            await _probe(context, stack, vocabulary),
            workers=len(cores.workers),
            clients=len(clients),
            apart=cores.all_apart,
        )
        for number in range(context.repeats):
            context.say(
                f"latency: repetition {number + 1} of {context.repeats}, {pace.rate:.0f} requests/s ({pace.limit})"
            )
            through.append(await _load(context, stack, processes, vocabulary, pace.rate, direct=False))
            direct.append(await _load(context, stack, processes, vocabulary, pace.rate, direct=True))
    share = sorted(one.router_share for one in through)[len(through) // 2]
    at = (
        f"router at {share:.0%} of a core; {pace.rate:.0f} requests/s (Poisson), limited by {pace.limit}; "
        f"{len(cores.workers)} worker(s), {len(clients)} client process(es); minus the workers alone"
    )
    pairs = list(zip(through, direct, strict=True))
    first = [a.first_token_ms - b.first_token_ms for a, b in pairs]
    gaps = [a.gap_ms - b.gap_ms for a, b in pairs]
    rows = [
        _row("latency.ttft", "added to the first token, p99", first, 3.0, [a.first_token_ms for a, _ in pairs], at),
        _row("latency.itl", "added between tokens, p99", gaps, 2.0, [a.gap_ms for a, _ in pairs], ""),
    ]
    findings = [finding for row in rows if (finding := baseline_slower(row)) is not None]
    around = [one.surroundings for one in (*through, *direct)]
    # For latencies a client is saturated earlier than for CPU: when its loop is late.
    findings += [one for one in doubts("latency", around, context.core_count) if one.code != "CLIENT_SATURATED"]
    late = client_saturated(max((one.client for one in (*through, *direct)), key=lambda usage: usage.lag_p99_ms))
    if late is not None:
        findings.append(late._replace(text=f"latency: {late.text}"))
    busiest = worker_saturated("latency", max(one.worker_share for one in through))
    if busiest is not None:
        findings.append(busiest)
    if pace.limit != HALF_CORE:
        text = f"latency was measured with the router at {share:.0%} of a core: {pace.limit} allowed no more."
        findings.append(Finding("LOWER_LOAD", text, {"router_share": share, "limit": pace.limit}))
    return rows, findings


def _row(key: str, work: str, added: Sequence[float], goal: float, through: Sequence[float], note: str) -> Row:
    note = f"{spread(through).median:.1f} ms through the router{'; ' if note else ''}{note}"
    row = Row(key, work, "ms", added, goal, note)
    # Nothing gets faster by going through a router: below zero there is only noise, and no verdict.
    return row if row.median >= 0 else row._replace(goal=None)


def baseline_slower(row: Row) -> Finding | None:
    """The same load was slower without the router than with it."""
    if row.median >= 0:
        return None
    text = (
        f"{row.work}: {row.median:.1f} ms, the workers alone were slower: what disturbs is more than what is measured."
    )
    return Finding("BASELINE_SLOWER", text, {"row": row.key, "added_ms": row.median})


async def _probe(context: Context, stack: Stack, vocabulary: Vocabulary) -> Cost:
    """Measures what a token costs each side, with 128 streams."""
    rounds = max(1, round(context.seconds * 1000 / (ANSWER_TOKENS * STEP_MS)))
    endpoint = chat_endpoint(stack.http_url)
    try:
        jobs = context.jobs(STREAMS * rounds, vocabulary)
        found = await burden(endpoint, jobs, Load(concurrency=STREAMS), stack.routers, stack.workers)
    finally:
        await endpoint.close()
    tokens = found.figures.output_tokens
    return Cost(found.us_per_token, sum(found.beside_s) / tokens * 1e6, found.usage.cpu_s / tokens * 1e6)


async def _load(
    context: Context, stack: Stack, processes: LoadProcesses, vocabulary: Vocabulary, rate: float, *, direct: bool
) -> _Times:
    """Offers `rate` requests a second in all, to the router or to the workers alone. Raises TierError."""
    count = len(processes.cores)
    each = max(16, round(rate * (context.seconds + 2) / count))
    workers = stack.worker_addresses if direct else ()
    answer_s = ANSWER_TOKENS * STEP_MS / 1000
    warm = round(1.5 * rate * answer_s / count) + 1
    parts = [
        Part(stack.http_url, workers, vocabulary, next(context.seeds), number, each, rate / count, warm)
        for number in range(count)
    ]
    meters = [*stack.routers, *stack.workers]
    before: list[float] = []
    machine: list[MachineTimes | None] = []

    def on_start() -> None:
        before.extend(one.cpu_s() for one in meters)
        machine.append(machine_times())

    seen = await processes(parts, on_start)
    used = [one.cpu_s() - was for one, was in zip(meters, before, strict=True)]
    began, ended = machine[0], machine_times()
    errors = [error for one in seen for error in one.errors]
    if errors:
        raise TierError(f"{len(errors)} of {each * count} requests failed: {sorted(set(errors))}")
    usages = [one.usage for one in seen]
    wall = max(usage.wall_s for usage in usages)
    foreign = None
    if began is not None and ended is not None:
        known = sum(used) + sum(usage.cpu_s for usage in usages)
        foreign = max(0.0, ended.busy_s - began.busy_s - known)
    taken = max((usage.throttled_s or 0.0) + (usage.steal_s or 0.0) for usage in usages)
    around = Surroundings(wall, max(usage.cpu_share for usage in usages), foreign, taken)
    routers, workers_used = used[: len(stack.routers)], used[len(stack.routers) :]
    first = distribution((time for one in seen for time in one.first_tokens), 1e3).p99
    gaps = distribution((gap for one in seen for gap in one.gaps), 1e3).p99
    return _Times(
        first,
        gaps,
        sum(routers) / wall,
        max(workers_used) / wall,
        around,
        max(usages, key=lambda usage: usage.lag_p99_ms),
    )
