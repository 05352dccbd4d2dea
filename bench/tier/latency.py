"""Rows about what the tier adds to latencies: p99 through the router minus p99 of the same requests on workers alone.

Both are measured while wrk keeps the router at half of its core, or at less where worker and client would be short of
CPU before: what they are late by is no cost of the tier. wrk takes little CPU, and its times count for nothing; those
that count are of a few more requests, which a light process sends to the router and to the workers in turn.

An engine steps on a beat, and all its requests' tokens come at once; where there are cores for it, several workers
stand behind the router, as in a deployment, each with a beat of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.findings import Finding, client_saturated
from qwenserve.bench.measures import distribution, spread
from qwenserve.bench.meter import Usage
from qwenserve.bench.samples import Sample
from qwenserve.bench.tier.burden import Surroundings, TierError, doubts, worker_saturated
from qwenserve.bench.tier.context import ANSWER_TOKENS, PROMPT_TOKENS, Context, words
from qwenserve.bench.tier.cores import Cores, workers_beside
from qwenserve.bench.tier.probe import Part, Probe, Seen, probe
from qwenserve.bench.tier.stack import Stack, StackSettings, deployment
from qwenserve.bench.tier.table import Row
from qwenserve.bench.tier.wrk import WrkLoad, WrkResult, answer_bytes, installed, left_out, run_wrk

T = TypeVar("T")

STEP_MS = 10.0
HALF_CORE = "half of the router's core"
PROBE_RATE = 40.0
_ANSWER_S = ANSWER_TOKENS * STEP_MS / 1000
# A connection pauses as long as it is answered, on average: that many of them send as often as the probe does.
PROBE_CONNECTIONS = PROBE_RATE * 2 * _ANSWER_S
_ROUTER_SHARE = 0.5
_LOWER_SHARE = 0.45
_OTHERS_SHARE = 0.6
_SHARED_SHARE = 0.8
_MOST_STREAMS = 1000
_FIRST_CONNECTIONS = 256
_MOST_TRIES = 5
_NEAR_ENOUGH = 0.03
# wrk's connections have begun by then, each at its own time.
_SETTLE_S = 4.0
# wrk yields to a worker on the same core: it only makes load.
_WRK_NICENESS = 10
_LATE_STEP_MS = 5.0


class Shares(NamedTuple):
    """Shares of a core that one connection's requests take, on each side."""

    router: float
    workers: float
    wrk: float


def shares_of(routers_s: float, workers_s: float, wrk: WrkResult, answer: int) -> Shares:
    """Returns what one connection takes, answered and pausing in turn, from CPU seconds of each side. `answer` is
    the size of a whole one in bytes. Raises TierError where nothing was answered."""
    if not wrk.received:
        raise TierError("wrk got no answer")
    seconds = wrk.received / answer * 2 * _ANSWER_S
    return Shares(routers_s / seconds, workers_s / seconds, wrk.cpu_s / seconds)


class Level(NamedTuple):
    """Connections of wrk, and what kept them from being more."""

    connections: int
    limit: str


def choose_level(each: Shares, *, workers: int, clients: int, apart: bool) -> Level:
    """Returns the load at which the router uses half of its core, the probe's requests included, or the highest at
    which worker and wrk stay under 60 % of theirs. `apart`: every worker, and wrk on `clients` cores, has its own; else
    all of them and the probe share one, and stay under 80 % of it."""
    limits = {
        HALF_CORE: _ROUTER_SHARE / each.router,
        "streams that the workers take": workers * _MOST_STREAMS * 2.0,
    }
    if apart:
        limits["60 % of the workers' cores"] = _OTHERS_SHARE * workers / each.workers
        limits["60 % of wrk's cores"] = _OTHERS_SHARE * clients / each.wrk
    else:
        limits["80 % of the core that worker and client share"] = _SHARED_SHARE / (each.workers + each.wrk)
    limit = min(limits, key=limits.__getitem__)
    return Level(max(1, round(limits[limit] - PROBE_CONNECTIONS)), limit)


class ClientCores(NamedTuple):
    """Where the load comes from. Equal sets are shared."""

    wrk: frozenset[int]
    probe: frozenset[int]


def client_cores(cores: Cores) -> ClientCores:
    """Returns the cores of wrk and of the probe: one by itself for the probe where the client has two."""
    if len(cores.client) < 2:
        return ClientCores(cores.client, cores.client)
    alone = frozenset({max(cores.client)})
    return ClientCores(cores.client - alone, alone)


class _Times(NamedTuple):
    """The probe's p99s in milliseconds, the CPU of routers and workers as shares of a core, and what disturbed."""

    first_token_ms: float
    gap_ms: float
    router_share: float
    worker_share: float
    usage: Usage
    # CPU of everything on the machine but routers, workers and probe; None where it cannot be read.
    others_s: float | None

    def surroundings(self, wrk: WrkResult) -> Surroundings:
        """What went on around it while `wrk` made load."""
        usage = self.usage
        foreign = None if self.others_s is None else max(0.0, self.others_s - wrk.cpu_s / wrk.wall_s * usage.wall_s)
        taken = (usage.throttled_s or 0.0) + (usage.steal_s or 0.0)
        return Surroundings(usage.wall_s, usage.cpu_share, foreign, taken)


async def latency_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """Added to the first token and between tokens."""
    if not installed():
        return [], [left_out("the rows of latencies were")]
    cores = context.share_out(workers=workers_beside(context.physical, 1))
    clients = client_cores(cores)
    apart = cores.all_apart and clients.wrk != clients.probe
    through: list[_Times] = []
    direct: list[_Times] = []
    async with deployment(StackSettings(context.model, STEP_MS), cores) as stack, probe(clients.probe) as light:
        measured = _Measured(context, stack, light, await words(stack), clients.wrk)
        level = Level(_FIRST_CONNECTIONS, "")
        # Again and again, for with more connections each costs less.
        for _ in range(_MOST_TRIES):
            context.say(f"latency: what a connection costs, of {level.connections}")
            tried = level.connections
            each = await measured.shares(tried)
            level = choose_level(each, workers=len(cores.workers), clients=len(clients.wrk), apart=apart)
            if abs(level.connections - tried) <= _NEAR_ENOUGH * tried:
                break

        async def in_turn() -> None:
            for number in range(context.repeats):
                context.say(
                    f"latency: repetition {number + 1} of {context.repeats}, {level.connections} connections of wrk "
                    f"({level.limit})"
                )
                seed = next(context.seeds)
                through.append(await measured.times(seed, direct=False))
                direct.append(await measured.times(seed, direct=True))

        _, wrk = await measured.under(level.connections, in_turn)
    share = sorted(one.router_share for one in through)[len(through) // 2]
    at = (
        f"router at {share:.0%} of a core by {wrk.answers / wrk.wall_s:.0f} + {PROBE_RATE:.0f} requests/s (Poisson), "
        f"limited by {level.limit}; {len(cores.workers)} worker(s); p99 of the {PROBE_RATE:.0f}, from a process "
        f"{'ahead of all others on its core' if light.ahead else 'of usual priority'}; minus the workers alone beside "
        "the same load"
    )
    rows = _rows(through, direct, at)
    return rows, [*_findings(context, rows, through, direct, wrk), *lower_load(share, level)]


def _rows(through: Sequence[_Times], direct: Sequence[_Times], at: str) -> list[Row]:
    pairs = list(zip(through, direct, strict=True))
    first = [a.first_token_ms - b.first_token_ms for a, b in pairs]
    gaps = [a.gap_ms - b.gap_ms for a, b in pairs]
    return [
        _row("latency.ttft", "added to the first token, p99", first, 3.0, [a.first_token_ms for a in through], at),
        _row("latency.itl", "added between tokens, p99", gaps, 2.0, [a.gap_ms for a in through], ""),
    ]


def _row(key: str, work: str, added: Sequence[float], goal: float, through: Sequence[float], note: str) -> Row:
    note = f"{spread(through).median:.1f} ms through the router{'; ' if note else ''}{note}"
    row = Row(key, work, "ms", added, goal, note)
    # Nothing gets faster by going through a router: below zero there is only noise, and no verdict.
    return row if row.median >= 0 else row._replace(goal=None)


def _findings(
    context: Context, rows: Sequence[Row], through: Sequence[_Times], direct: Sequence[_Times], wrk: WrkResult
) -> list[Finding]:
    found = [finding for row in rows if (finding := baseline_slower(row)) is not None]
    every = [*through, *direct]
    # For latencies a client is saturated earlier than for CPU: when its loop is late.
    around = doubts("latency", [one.surroundings(wrk) for one in every], context.core_count)
    found += [one for one in around if one.code != "CLIENT_SATURATED"]
    late = client_saturated(max((one.usage for one in every), key=lambda usage: usage.lag_p99_ms))
    if late is not None:
        found.append(late._replace(text=f"latency: {late.text}"))
    checks = (
        worker_saturated("latency", max(one.worker_share for one in every)),
        steps_late([one.gap_ms for one in direct]),
    )
    return [*found, *(one for one in checks if one is not None)]


def baseline_slower(row: Row) -> Finding | None:
    """The same load was slower without the router than with it."""
    if row.median >= 0:
        return None
    text = (
        f"{row.work}: {row.median:.1f} ms, the workers alone were slower: what disturbs is more than what is measured."
    )
    return Finding("BASELINE_SLOWER", text, {"row": row.key, "added_ms": row.median})


def steps_late(gaps_ms: Sequence[float]) -> Finding | None:
    """The workers' own tokens were not on the engine's beat. `gaps_ms`: p99 between tokens without a router, of each
    repetition."""
    late = spread(gaps_ms).median - STEP_MS
    if late <= _LATE_STEP_MS:
        return None
    text = (
        f"latency: the workers' steps of {STEP_MS:g} ms came {late:.1f} ms late at p99 without a router: they were "
        "short of CPU, and what waits for them is in both figures."
    )
    return Finding("STEPS_LATE", text, {"late_ms": late})


def lower_load(share: float, level: Level) -> list[Finding]:
    """The router was not near half of its core."""
    if share >= _LOWER_SHARE:
        return []
    why = "it took less than expected" if level.limit == HALF_CORE else f"{level.limit} allowed no more"
    text = f"latency was measured with the router at {share:.0%} of a core: {why}."
    return [Finding("LOWER_LOAD", text, {"router_share": share, "limit": level.limit})]


class _Measured(NamedTuple):
    """What all loads of the rows have in common."""

    context: Context
    stack: Stack
    probe: Probe
    vocabulary: Vocabulary
    wrk_cores: frozenset[int]

    async def under(self, connections: int, body: Callable[[], Awaitable[T]]) -> tuple[T, WrkResult]:
        """Runs `body` while wrk makes load, and returns what both gave. Raises TierError."""
        load = WrkLoad(
            connections=connections,
            threads=min(connections, len(self.wrk_cores)),
            pause_ms=_ANSWER_S * 1000,
            niceness=_WRK_NICENESS,
            core=self.wrk_cores,
        )
        found: list[T] = []

        async def settled() -> None:
            await asyncio.sleep(_SETTLE_S)
            found.append(await body())

        seed = next(self.context.seeds)
        result = await run_wrk(self.stack.http_url, load, self.vocabulary, seed, until=settled())
        return found[0], result

    async def shares(self, connections: int) -> Shares:
        """Measures what one connection of wrk costs each side, with so many. Raises TierError.

        By the answers that it got, and not by the time that passed: where somebody is short of CPU, connections wait,
        and would look cheap.
        """
        positions = self.vocabulary.draw(PROMPT_TOKENS, self.context.random())
        whole = await answer_bytes(self.stack.http_url, Sample(ANSWER_TOKENS, text=self.vocabulary.to_text(positions)))
        before = self._cpu_s()
        _, wrk = await self.under(connections, lambda: asyncio.sleep(self.context.seconds))
        routers, workers = (sum(now) - sum(was) for now, was in zip(self._cpu_s(), before, strict=True))
        return shares_of(routers, workers, wrk, whole)

    async def times(self, arrivals_seed: int, *, direct: bool) -> _Times:
        """Sends the probe's requests to the router, or to the workers. Raises TierError."""
        count = max(16, round(PROBE_RATE * self.context.seconds))
        workers = self.stack.worker_addresses if direct else ()
        warm = round(1.5 * PROBE_RATE * _ANSWER_S)
        seed = next(self.context.seeds)
        part = Part(self.stack.http_url, workers, self.vocabulary, seed, arrivals_seed, count, PROBE_RATE, warm)
        before: list[tuple[Sequence[float], Sequence[float]]] = []
        seen = await self.probe(part, lambda: before.append(self._cpu_s()))
        if seen.errors:
            raise TierError(f"{len(seen.errors)} of {count} requests failed: {sorted(set(seen.errors))}")
        (routers, workers_used) = (
            [a - b for a, b in zip(now, was, strict=True)] for now, was in zip(self._cpu_s(), before[0], strict=True)
        )
        return _times(seen, routers, workers_used)

    def _cpu_s(self) -> tuple[Sequence[float], Sequence[float]]:
        """CPU seconds of each router, and of each worker."""
        return [one.cpu_s() for one in self.stack.routers], [one.cpu_s() for one in self.stack.workers]


def _times(seen: Seen, routers: Sequence[float], workers: Sequence[float]) -> _Times:
    usage = seen.usage
    busy = usage.machine_busy_s
    return _Times(
        distribution(seen.first_tokens, 1e3).p99,
        distribution(seen.gaps, 1e3).p99,
        sum(routers) / usage.wall_s,
        max(workers) / usage.wall_s,
        usage,
        None if busy is None else busy - sum(routers) - sum(workers) - usage.cpu_s,
    )
