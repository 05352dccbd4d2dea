"""`qwenserve drill`: injects faults into a running deployment under load, and judges by what clients saw."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.cli.drill.difference import told_apart
from qwenserve.cli.drill.faults import DRILLS, Bench, Drill, ranks_of_record
from qwenserve.cli.drill.load import Failure, Load, Seen, Target, Undisturbed, undisturbed
from qwenserve.cli.errors import CommandError
from qwenserve.cli.output import Output
from qwenserve.cli.state import StateDirectory
from qwenserve.runtime.client_tls import tls_of

_HEADER = (
    "DRILL",
    "RESULT",
    "ANSWERS",
    "CONTINUED",
    "FAILED",
    "DIFFERENT",
    "RETRIED",
    "REFUSED",
    "PAUSE P50",
    "P99",
    "RESUMED",
    "WHY",
)


class Result(NamedTuple):
    """How a drill ended. `why` is empty where it passed. `faults`: when processes were harmed."""

    name: str
    verdict: str
    seen: Seen
    why: str = ""
    faults: Sequence[float] = ()


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
    bench = Bench(
        state,
        record.name,
        target,
        arguments.times,
        arguments.seconds,
        arguments.clients,
        arguments.every,
        arguments.for_s,
        [],
    )
    output = Output()
    results = asyncio.run(_run(bench, arguments.drills or list(DRILLS), Output(to_stderr=True)))
    output.table(_HEADER, [_row(result) for result in results])
    return int(any(result.verdict == "fail" for result in results))


async def _run(bench: Bench, names: Sequence[str], news: Output) -> list[Result]:
    try:
        expected = await undisturbed(bench.target, bench.clients)
    except Failure as failure:
        raise CommandError(f"an undisturbed question fails already: {failure}") from None
    if expected.vary:
        news.line(
            "note: answers vary under load though nothing is wrong; that they differ is told, and no fault", "yellow"
        )
    results = []
    for name in names:
        news.line(f"{name} …", "dim")
        result = await run_one(bench._replace(faults=[]), name, DRILLS[name], expected)
        results.append(result)
        if result.seen.difference is not None:
            prompt, text = result.seen.difference
            news.line(f"{name}: {await told_apart(bench.target, prompt, text)}")
    return results


async def run_one(bench: Bench, name: str, drill: Drill, expected: Undisturbed) -> Result:
    """Runs one drill under load."""
    if drill.tier is not None and len(bench.of_tier(drill.tier)) < drill.least:
        return Result(name, "left out", Seen(), f"it takes {drill.tier} processes: {drill.least} at least")
    if drill.ranks and not any(ranks_of_record(worker) for worker in bench.of_tier("worker")):
        return Result(name, "left out", Seen(), "it takes workers of several MPI ranks: worker.mpi.ranks")
    # A store is harmed while answers are kept in it and taken from it.
    target = bench.target._replace(cache="readwrite") if drill.tier == "store" else bench.target
    load = Load(target, expected.answers)
    try:
        async with load.running(bench.clients) as seen:
            await load.under_way(bench.clients)
            await drill.fault(bench)
    except (CommandError, OSError) as error:
        return Result(name, "fail", load.seen, str(error), bench.faults)
    why = verdict_on(seen, drill, vary=expected.vary)
    return Result(name, "fail" if why else "pass", seen, why, bench.faults)


def verdict_on(seen: Seen, drill: Drill, *, vary: bool = False) -> str:
    """Returns what clients must not have seen; empty if all is well. `vary`: answers differ anyway. Pure."""
    lost = [failure for failure in seen.failures if not (drill.loses_begun and failure.begun)]
    if lost:
        return f"{len(lost)} answers lost; the first: {lost[0]}"
    if seen.differing and not vary:
        return f"{seen.differing} answers differ from the undisturbed run"
    return "" if seen.answers else "not one answer was read to its end"


def _row(result: Result) -> Sequence[str]:
    seen = result.seen
    counts = (
        seen.answers,
        len(seen.continued),
        len(seen.failures),
        seen.differing,
        seen.retried,
        seen.refused,
    )
    pauses = (f"{seen.pause(share) * 1000:.0f} ms" for share in (0.5, 0.99))
    return (result.name, result.verdict, *map(str, counts), *pauses, _span(seen.resumed(result.faults)), result.why)


def _span(seconds: Sequence[float]) -> str:
    """Returns the least and the most of some times."""
    least, most = (f"{each * 1000:.0f}" for each in (min(seconds), max(seconds))) if seconds else ("", "")
    return f"{least} ms" if least == most and seconds else f"{least}–{most} ms" if seconds else "–"
