"""Rows about the worker's side of the token session by itself; the process that is measured is `servicer_process`.

Most of what a paced step costs belongs to gRPC and to a core that slept: hence the floor, which is bare grpc.aio with
a ready-made message, and the same work on a core that is kept awake.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.bench.findings import Finding
from qwenserve.bench.tier.burden import Surroundings, doubts
from qwenserve.bench.tier.context import STREAMS, Context
from qwenserve.bench.tier.processes import running
from qwenserve.bench.tier.table import Row, ratio_row

_STEP_MS = 10.0
_PATIENCE_S = 60.0
_RESULT = "MEASURED "


class _Case(NamedTuple):
    """One row. `flags` are those of the process."""

    key: str
    what: str
    goal: float | None
    step_ms: float = _STEP_MS
    streams: int = STREAMS
    flags: Sequence[str] = ()


_CASES = (
    _Case("floor", "bare grpc.aio, ready-made messages", None, flags=["--floor"]),
    _Case("paced", "worker's session", 3.0),
    _Case("paced.awake", "worker's session, core kept awake", 3.0, flags=["--keep-awake"]),
    _Case("paced.many", "worker's session", 3.0, streams=4 * STREAMS),
    _Case("fast", "worker's session", 3.0, step_ms=0.0),
)


class Measured(NamedTuple):
    """One repetition: CPU seconds of the process that serves, of those that belong to it, and of the whole machine in
    between (None where it cannot be read)."""

    steps: int
    streams: int
    messages: int
    cpu_s: float
    client_s: float
    # Of the process that keeps the core awake.
    awake_s: float
    wall_s: float
    busy_s: float | None
    steal_s: float

    def line(self) -> str:
        """Returns what the process prints."""
        return f"{_RESULT}{json.dumps(self)}"

    @property
    def us_per_token(self) -> float:
        """Microseconds of CPU for a token."""
        return self.us_per_step / self.streams

    @property
    def us_per_step(self) -> float:
        """Microseconds of CPU for a step of all streams."""
        return self.cpu_s / self.steps * 1e6

    @property
    def surroundings(self) -> Surroundings:
        """What may have disturbed it."""
        own = self.cpu_s + self.client_s + self.awake_s
        foreign = None if self.busy_s is None else max(0.0, self.busy_s - own)
        return Surroundings(self.wall_s, self.client_s / self.wall_s, foreign, self.steal_s)


def read_measured(log: str) -> Measured:
    """Reads what the process has printed."""
    (line,) = [line for line in log.splitlines() if line.startswith(_RESULT)]
    return Measured(*json.loads(line[len(_RESULT) :]))


async def worker_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """CPU of the worker's session per token: paced, beside its floor, and as fast as it can."""
    found: dict[str, list[Measured]] = {case.key: [] for case in _CASES}
    for repetition in range(context.repeats):
        context.say(f"worker: repetition {repetition + 1} of {context.repeats}")
        for case in _CASES:
            found[case.key].append(await _measure(case, context))
    rows: list[Row] = []
    findings: list[Finding] = []
    for case in _CASES:
        rows.append(_row(case, found[case.key]))
        if case.key == "paced":
            us, floor_us = ([one.us_per_step for one in found[key]] for key in ("paced", "floor"))
            rows.append(ratio_row("worker.paced.ratio", "  worker's session / bare grpc.aio", us, floor_us, goal=None))
        findings += doubts(f"worker {case.key}", [one.surroundings for one in found[case.key]], context.core_count)
    return rows, findings


async def _measure(case: _Case, context: Context) -> Measured:
    numbers = {"streams": case.streams, "step-ms": case.step_ms, "seconds": context.seconds}
    arguments = [f"--{key}={value}" for key, value in numbers.items()]
    arguments += [f"--client-cores={','.join(map(str, sorted(context.cores.client)))}", *case.flags]
    # No router runs: its core is the worker's.
    async with running(
        "servicer", "qwenserve.bench.tier.servicer_process", arguments, context.cores.measured
    ) as process:
        await process.wait_for("\nEND", _PATIENCE_S + context.seconds)
        return read_measured(process.log)


def _row(case: _Case, found: Sequence[Measured]) -> Row:
    merged = sum(one.steps for one in found) / sum(one.messages for one in found)
    middle = sorted(one.us_per_step for one in found)[len(found) // 2]
    pace = f"paced {case.step_ms:g} ms" if case.step_ms else "as fast as it can"
    return Row(
        f"worker.{case.key}",
        f"{case.what}, per token, {pace}, {case.streams} streams",
        "µs CPU",
        [one.us_per_token for one in found],
        case.goal,
        f"ready-made tokens, no engine; {middle:.0f} µs a step, {merged:.1f} steps a message",
    )
