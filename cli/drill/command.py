"""`qwenserve drill`: injects faults into a running deployment under load, and judges by what clients saw."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.cli.drill.faults import DRILLS, Bench, Drill, ranks_of_record
from qwenserve.cli.drill.load import Failure, Load, Seen, Target, undisturbed
from qwenserve.cli.errors import CommandError
from qwenserve.cli.output import Output
from qwenserve.cli.state import StateDirectory
from qwenserve.runtime.client_tls import tls_of

_HEADER = ("DRILL", "RESULT", "ANSWERS", "FAILED", "DIFFERENT", "RETRIED", "REFUSED", "PAUSE P50", "P99", "WHY")


class Result(NamedTuple):
    """How a drill ended. `why` is empty where it passed or was left out."""

    name: str
    verdict: str
    seen: Seen
    why: str = ""


def run_drill(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code: 1 if a drill failed."""
    state = StateDirectory()
    record = state.find(arguments.name)
    if record.shown_state != "ready":
        raise CommandError(f"{record.name} is {record.shown_state}; drills begin with a deployment that is whole")
    if not record.http:
        raise CommandError(f"{record.name} has no HTTP API, over which drills ask; start it with http.enabled=true")
    key = arguments.api_key or os.environ.get("QWENSERVE_API_KEY", "")
    target = Target(record.http_url, key, arguments.tokens, tls=tls_of(arguments, known=record.tls))
    bench = Bench(state, record.name, target, arguments.times, arguments.seconds, arguments.clients)
    output = Output()
    results = asyncio.run(_run(bench, arguments.drills or list(DRILLS), Output(to_stderr=True)))
    output.table(_HEADER, [_row(result) for result in results])
    return int(any(result.verdict == "fail" for result in results))


async def _run(bench: Bench, names: Sequence[str], news: Output) -> list[Result]:
    try:
        expected = await undisturbed(bench.target, bench.clients)
    except Failure as failure:
        raise CommandError(f"an undisturbed question fails already: {failure}") from None
    if not expected:
        news.line("note: answers vary under load though nothing is wrong, so they are not compared", "yellow")
    results = []
    for name in names:
        news.line(f"{name} …", "dim")
        results.append(await run_one(bench, name, DRILLS[name], expected))
    return results


async def run_one(bench: Bench, name: str, drill: Drill, expected: dict[str, str]) -> Result:
    """Runs one drill under load."""
    if drill.tier is not None and len(bench.of_tier(drill.tier)) < drill.least:
        return Result(name, "left out", Seen(), f"it takes {drill.tier} processes: {drill.least} at least")
    if drill.ranks and not any(ranks_of_record(worker) for worker in bench.of_tier("worker")):
        return Result(name, "left out", Seen(), "it takes workers of several MPI ranks: worker.mpi.ranks")
    # A store is harmed while answers are kept in it and taken from it.
    target = bench.target._replace(cache="readwrite") if drill.tier == "store" else bench.target
    load = Load(target, expected)
    try:
        async with load.running(bench.clients) as seen:
            await drill.fault(bench)
    except (CommandError, OSError) as error:
        return Result(name, "fail", load.seen, str(error))
    why = verdict_on(seen, drill)
    return Result(name, "fail" if why else "pass", seen, why)


def verdict_on(seen: Seen, drill: Drill) -> str:
    """Returns what clients must not have seen; empty if all is well. Pure."""
    lost = [failure for failure in seen.failures if not (drill.loses_begun and failure.begun)]
    if lost:
        return f"{len(lost)} answers lost; the first: {lost[0]}"
    if seen.differing:
        return f"{seen.differing} answers differ from the undisturbed run"
    return "" if seen.answers else "not one answer was read to its end"


def _row(result: Result) -> Sequence[str]:
    seen = result.seen
    counts = (seen.answers, len(seen.failures), seen.differing, seen.retried, seen.refused)
    pauses = (f"{seen.pause(share) * 1000:.0f} ms" for share in (0.5, 0.99))
    return (result.name, result.verdict, *map(str, counts), *pauses, result.why)
