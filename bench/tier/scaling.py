"""Rows about 1, 2 and 4 routers that share a port: whether throughput grows with them, and whether one starves.

The kernel gives each new connection to one of the routers by a hash, and a connection stays where it is. So there are
many connections, and each router's log tells how many answers it gave and how long they took to their first token.

Where there are not enough cores, each router is held to a slice of one: then nothing but its own CPU limits it, and
worker and client have the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.findings import Finding
from qwenserve.bench.measures import distribution
from qwenserve.bench.meter import machine_times
from qwenserve.bench.tier.burden import Surroundings, TierError, doubts, worker_saturated
from qwenserve.bench.tier.context import Context, words
from qwenserve.bench.tier.cores import Cores, share_out, workers_beside
from qwenserve.bench.tier.processes import Process
from qwenserve.bench.tier.quota import QuotaError, held_to
from qwenserve.bench.tier.stack import Stack, StackSettings, deployment
from qwenserve.bench.tier.table import Row
from qwenserve.bench.tier.wrk import WrkLoad, installed, left_out, run_wrk

ROUTERS = (1, 2, 4)
# For each router: with fewer a message has less for each, and a token costs more.
_CONNECTIONS = 128
# A slow router takes its time until all of its first answers have begun and some have ended.
_LEAST_SLICE_S = 4.0
_MOST_THREADS = 8
_SETTLE_S = 0.25
# Four of them leave worker and client enough of what they share to be no limit.
_SLICE = 0.18


class Answers(NamedTuple):
    """What one router's log says of a load: tokens of all answers, those that wrk has cut off too, and p99 of the time
    to the first token, by the router's clock."""

    tokens: int
    first_token_p99_ms: float


class Run(NamedTuple):
    """One load on several routers."""

    tokens_per_s: float
    us_per_token: float
    answers: Sequence[Answers]
    router_shares: Sequence[float]
    worker_share: float
    surroundings: Surroundings

    @property
    def evenness(self) -> float:
        """Fewest tokens of a router by the most."""
        counts = [one.tokens for one in self.answers]
        return min(counts) / max(counts)

    @property
    def wait_ratio(self) -> float:
        """The longest p99 of a router by the shortest."""
        waits = [one.first_token_p99_ms for one in self.answers]
        return max(waits) / min(waits)


def read_answers(log: str, seconds: float) -> Answers:
    """Reads a router's log of a load that took `seconds`, which count as the wait of a router that answered nothing."""
    waits = []
    tokens = 0
    for line in log.splitlines():
        if '"answer"' not in line:
            continue
        event = json.loads(line)
        if event.get("event") != "answer":
            continue
        tokens += event["completion_tokens"]
        if event["first_token_ms"] is not None:
            waits.append(float(event["first_token_ms"]))
    return Answers(tokens, distribution(waits or [seconds * 1e3]).p99)


class Plan(NamedTuple):
    """Who runs where for each number of routers, and what share of a core each router is held to (None: a core of its
    own)."""

    cores: Mapping[int, Cores]
    share: float | None


def make_plan(physical: Sequence[Sequence[int]]) -> Plan:
    """Returns cores for everybody where there are enough for the most routers; else slices of the first core for the
    routers, and the others for worker and client."""
    # As many workers behind one router as behind four: only the routers change.
    workers = workers_beside(physical, max(ROUTERS))
    own = {routers: share_out(physical, routers=routers, workers=workers) for routers in ROUTERS}
    if own[max(ROUTERS)].all_apart:
        return Plan(own, None)
    one = share_out(physical, workers=workers)
    slices = {routers: one._replace(routers=[*one.routers] * routers) for routers in ROUTERS}
    return Plan(slices, _SLICE)


async def scaling_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """Throughput, CPU per token, and how evenly the routers are used."""
    if not installed():
        return [], [left_out("the rows of several routers were")]
    rows: list[Row] = []
    findings: list[Finding] = []
    plan = make_plan(context.physical)
    alone: list[float] = []
    for routers, cores in plan.cores.items():
        try:
            runs = await _runs(context, cores, plan.share)
        except QuotaError as error:
            text = (
                f"{context.core_count} cores for {max(ROUTERS)} routers, worker and client, and no slices of cores: "
                f"{error}. The rows of several routers were left out."
            )
            return [], [Finding("TOO_FEW_CORES", text, {"cores": context.core_count})]
        tokens = [run.tokens_per_s for run in runs]
        alone = alone or tokens
        rows += _rows(cores, plan.share, runs, alone)
        name = f"{routers} router(s)"
        findings += doubts(name, [run.surroundings for run in runs], context.core_count)
        busiest = worker_saturated(name, max(_beside(run, shared=not cores.all_apart) for run in runs))
        findings += [busiest] if busiest is not None else []
    return rows, findings


def _beside(run: Run, *, shared: bool) -> float:
    """Share of a core that the busiest worker used, and wrk where they share one."""
    return run.worker_share + (run.surroundings.client_share if shared else 0.0)


async def _runs(context: Context, cores: Cores, share: float | None) -> list[Run]:
    runs = []
    seconds = context.seconds if share is None else max(_LEAST_SLICE_S, context.seconds)
    async with deployment(StackSettings(context.model, 0.0), cores) as stack:
        vocabulary = await words(stack)
        await _run(context, stack, vocabulary, cores, 2.0)  # connections, caches and code paths are warm
        with contextlib.nullcontext() if share is None else held_to(share, [one.pid for one in stack.routers]):
            for number in range(context.repeats):
                context.say(f"scaling, {len(cores.routers)} router(s): repetition {number + 1} of {context.repeats}")
                runs.append(await _run(context, stack, vocabulary, cores, seconds))
    return runs


def _rows(cores: Cores, share: float | None, runs: Sequence[Run], alone: Sequence[float]) -> list[Row]:
    routers, workers = len(cores.routers), len(cores.workers)
    tokens = [run.tokens_per_s for run in runs]
    middle = sorted(runs, key=lambda run: run.tokens_per_s)[len(runs) // 2]
    shares = ", ".join(f"{share:.0%}" for share in middle.router_shares)
    held = "on a core of its own each" if share is None else f"by quota of {share:.0%} of a core each"
    note = (
        f"{held}, used {shares}; {middle.us_per_token:.1f} µs CPU a token in all routers; {workers} worker(s), the "
        f"busiest at {middle.worker_share:.0%}, wrk at {middle.surroundings.client_share:.0%}"
    )
    rows = [Row(f"scaling.{routers}", f"{routers} router(s) on one port", "tokens/s", tokens, None, note)]
    if routers > 1:
        gain = [a / b for a, b in zip(tokens, alone, strict=True)]
        waits = ", ".join(f"{one.first_token_p99_ms:.0f}" for one in middle.answers)
        connections = f"{_CONNECTIONS * routers} connections, given out by the kernel; 1 is even"
        rows += [
            Row(f"scaling.gain.{routers}", f"  {routers} routers / 1 router", "ratio", gain, None, "throughput"),
            Row(
                f"scaling.even.{routers}",
                f"  fewest / most tokens of {routers} routers",
                "ratio",
                [run.evenness for run in runs],
                None,
                connections,
            ),
            Row(
                f"scaling.wait.{routers}",
                "  longest / shortest p99 to the first token",
                "ratio",
                [run.wait_ratio for run in runs],
                None,
                f"p99 of each router {waits} ms, all saturated",
            ),
        ]
    return rows


async def _run(context: Context, stack: Stack, vocabulary: Vocabulary, cores: Cores, seconds: float) -> Run:
    for router in stack.routers:
        router.forget_log()
    meters = [*stack.routers, *stack.workers]
    before, machine = [one.cpu_s() for one in meters], machine_times()
    threads = min(_MOST_THREADS, len(cores.client))
    load = WrkLoad(connections=_CONNECTIONS * len(stack.routers), threads=threads, core=cores.client)
    result = await run_wrk(stack.http_url, load, vocabulary, next(context.seeds), seconds=seconds)
    used, after = [one.cpu_s() - was for one, was in zip(meters, before, strict=True)], machine_times()
    routers, workers = used[: len(stack.routers)], used[len(stack.routers) :]
    foreign = None
    if machine is not None and after is not None:
        foreign = max(0.0, after.busy_s - machine.busy_s - sum(used) - result.cpu_s)
    taken = 0.0 if machine is None or after is None else after.steal_s - machine.steal_s
    answers = [read_answers(await _settled(router), result.wall_s) for router in stack.routers]
    tokens = sum(one.tokens for one in answers)
    if not tokens:
        raise TierError("the routers gave no token at all")
    return Run(
        tokens / result.wall_s,
        sum(routers) / tokens * 1e6,
        answers,
        [cpu / result.wall_s for cpu in routers],
        max(workers) / result.wall_s,
        Surroundings(result.wall_s, result.cpu_s / result.wall_s / threads, foreign, taken),
    )


async def _settled(router: Process) -> str:
    """Returns a router's log once it has stopped growing: what wrk has cut off ends a little later."""
    last = ""
    for _ in range(20):
        log = router.log
        if log == last:
            break
        last = log
        await asyncio.sleep(_SETTLE_S)
    return last
