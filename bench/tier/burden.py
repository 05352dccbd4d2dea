"""One load on one thing under measurement: what its process spent on it, and what may have disturbed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qwenserve.bench.clients.endpoint import Endpoint
from qwenserve.bench.findings import Finding
from qwenserve.bench.load import Load, Run
from qwenserve.bench.measures import Figures, measure
from qwenserve.bench.meter import Usage
from qwenserve.bench.samples import Job
from qwenserve.bench.tier.processes import Process

_CLIENT_SHARE = 0.9
_WORKER_SHARE = 0.9
_OTHERS_SHARE = 0.05


class TierError(Exception):
    """A row could not be measured. The text says why."""


class Surroundings(NamedTuple):
    """What else went on while something was measured. `client_share` is of one core, the busiest client's."""

    wall_s: float
    client_share: float
    # CPU of everything on the machine that is no part of the measurement; None where it cannot be read.
    foreign_s: float | None
    # CPU that a limit or the hypervisor kept back.
    taken_s: float


class Burden(NamedTuple):
    """One load's cost. `cpu_s` is of the measured processes, `beside_s` of others that take part, in their order."""

    cpu_s: Sequence[float]
    figures: Figures
    usage: Usage
    # As in Surroundings.
    foreign_s: float | None
    beside_s: Sequence[float] = ()

    @property
    def surroundings(self) -> Surroundings:
        """What may have disturbed it."""
        taken = (self.usage.throttled_s or 0.0) + (self.usage.steal_s or 0.0)
        return Surroundings(self.usage.wall_s, self.usage.cpu_share, self.foreign_s, taken)

    @property
    def total_cpu_s(self) -> float:
        """CPU seconds of all measured processes."""
        return sum(self.cpu_s)

    @property
    def us_per_event(self) -> float:
        """Microseconds of CPU per streamed event."""
        return self.total_cpu_s / self.figures.events * 1e6

    @property
    def us_per_token(self) -> float:
        """Microseconds of CPU per generated token."""
        return self.total_cpu_s / self.figures.output_tokens * 1e6

    @property
    def ms_per_request(self) -> float:
        """Milliseconds of CPU per request."""
        return self.total_cpu_s / self.figures.succeeded * 1e3

    @property
    def share(self) -> float:
        """Share of one core that the measured processes used."""
        return self.total_cpu_s / self.usage.wall_s


async def burden(
    endpoint: Endpoint, jobs: Sequence[Job], load: Load, measured: Sequence[Process], beside: Sequence[Process] = ()
) -> Burden:
    """Runs the load. `beside` takes part but is not measured. Raises TierError when a request failed."""
    before, beside_before = [p.cpu_s() for p in measured], [p.cpu_s() for p in beside]
    outcome = await Run(endpoint, load)(jobs)
    cpu = [p.cpu_s() - was for p, was in zip(measured, before, strict=True)]
    others = [p.cpu_s() - was for p, was in zip(beside, beside_before, strict=True)]
    figures = measure(outcome.records)
    if figures.failed or not figures.output_tokens:
        raise TierError(f"{figures.failed} of {figures.sent} requests failed: {dict(figures.errors)}")
    usage = outcome.usage
    busy = usage.machine_busy_s
    foreign = None if busy is None else max(0.0, busy - sum(cpu) - sum(others) - usage.cpu_s)
    return Burden(cpu, figures, usage, foreign, others)


def disturbances(row: str, burdens: Sequence[Burden], cores: int) -> list[Finding]:
    """Returns what makes a row's figures doubtful."""
    return doubts(row, [burden.surroundings for burden in burdens], cores)


def doubts(row: str, around: Sequence[Surroundings], cores: int) -> list[Finding]:
    """Returns what makes figures doubtful, given what went on around each of a row's measurements."""
    found = []
    client = max(one.client_share for one in around)
    if client > _CLIENT_SHARE:
        text = f"{row}: the load client used {client:.0%} of a core: it was the bottleneck."
        found.append(Finding("CLIENT_SATURATED", text, {"row": row, "cpu_share": client}))
    shares = [one.foreign_s / (one.wall_s * cores) for one in around if one.foreign_s is not None]
    if shares and max(shares) > _OTHERS_SHARE:
        text = (
            f"{row}: other programs used up to {max(shares):.0%} of the machine: caches and clocks were shared, so the "
            "CPU per token is likely too high. Repeat on a quiet machine."
        )
        found.append(Finding("MACHINE_BUSY", text, {"row": row, "share": max(shares)}))
    taken = max(one.taken_s for one in around)
    if taken > 0.02 * max(one.wall_s for one in around):
        text = f"{row}: {taken:.2f} s of CPU were taken away by a limit or the hypervisor."
        found.append(Finding("CPU_TAKEN_AWAY", text, {"row": row, "seconds": taken}))
    return found


def worker_saturated(row: str, share: float) -> Finding | None:
    """The busiest worker used `share` of its core: where throughput is measured, it may be the worker's."""
    if share <= _WORKER_SHARE:
        return None
    text = f"{row}: a worker used {share:.0%} of a core: it may have been the bottleneck, and not the routers."
    return Finding("WORKER_SATURATED", text, {"row": row, "cpu_share": share})
