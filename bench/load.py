"""Drives jobs at an endpoint: open loop (a schedule) or closed loop (a number of slots), and measures itself."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from qwenserve.bench.clients.endpoint import Endpoint
from qwenserve.bench.meter import Meter, Usage
from qwenserve.bench.record import Record
from qwenserve.bench.samples import ChatMessage, Job, Sample
from qwenserve.bench.schedule import Arrivals, arrival_times, slot_starts


class Load(NamedTuple):
    """How jobs are offered. Closed loop when `arrivals.rate` is infinite: `concurrency` slots, started over `ramp_s`
    seconds. Open loop otherwise: the schedule, with at most `concurrency` jobs at a time where it is set."""

    arrivals: Arrivals = Arrivals()
    concurrency: int | None = None
    ramp_s: float = 0.0
    # No new jobs after this many seconds; None: until all are sent.
    duration_s: float | None = None
    seed: int = 0

    @property
    def open_loop(self) -> bool:
        """Whether requests have a schedule."""
        return not math.isinf(self.arrivals.rate)

    def describe(self) -> str:
        """Returns the load in words, for the method."""
        cap = f", at most {self.concurrency} at a time" if self.concurrency else ""
        if not self.open_loop:
            ramp = f", started over {self.ramp_s:g} s" if self.ramp_s else ""
            return f"closed loop, {self.concurrency} at a time{ramp}" if self.concurrency else "all at once"
        rate = f"{self.arrivals.rate:g}"
        if self.arrivals.final_rate is not None:
            rate += f" to {self.arrivals.final_rate:g} ({self.arrivals.ramp})"
        return f"open loop, {rate} requests/s, gamma gaps of shape {self.arrivals.burstiness:g}{cap}"


class Outcome(NamedTuple):
    """All records of a run, in order of sending, and what the client's process did meanwhile."""

    records: Sequence[Record]
    usage: Usage


class _Unit(NamedTuple):
    job: Job
    # The first request, encoded before the clock runs.
    first: Any
    offset: float


class Run:
    """One run of some jobs. What it counts may be read while it runs."""

    def __init__(self, endpoint: Endpoint, load: Load) -> None:
        self._endpoint = endpoint
        self._load = load
        self._records: list[Record] = []
        self._began = 0.0
        self.ended = 0
        self.failed = 0

    @property
    def running(self) -> int:
        """Requests under way."""
        return len(self._records) - self.ended

    async def __call__(self, jobs: Sequence[Job], on_tick: Callable[[], None] | None = None) -> Outcome:
        """Sends all jobs and returns when the last has ended. `on_tick` is called twice a second."""
        units = self._encode(jobs)
        meter = Meter()
        ticker = asyncio.get_running_loop().create_task(_tick(on_tick)) if on_tick else None
        self._began = time.perf_counter()
        meter.start()
        try:
            await (self._open_loop(units) if self._load.open_loop else self._closed_loop(units))
        finally:
            usage = meter.stop()
            if ticker is not None:
                ticker.cancel()
                await asyncio.gather(ticker, return_exceptions=True)
        return Outcome(self._records, usage)

    def _encode(self, jobs: Sequence[Job]) -> list[_Unit]:
        offsets = arrival_times(len(jobs), self._load.arrivals, self._load.seed)
        return [_Unit(job, self._endpoint.prepare(job[0]), offset) for job, offset in zip(jobs, offsets, strict=True)]

    def _over(self, offset: float) -> bool:
        limit = self._load.duration_s
        return limit is not None and offset >= limit

    async def _open_loop(self, units: Sequence[_Unit]) -> None:
        gate = asyncio.Semaphore(self._load.concurrency) if self._load.concurrency else None
        tasks = []
        try:
            for unit in units:
                if self._over(unit.offset):
                    break
                delay = self._began + unit.offset - time.perf_counter()
                if delay > 0:
                    await asyncio.sleep(delay)
                if gate is not None:
                    await gate.acquire()
                tasks.append(asyncio.ensure_future(self._one(unit, gate)))
            await asyncio.gather(*tasks)
        finally:
            await _end(tasks)

    async def _closed_loop(self, units: Sequence[_Unit]) -> None:
        left = iter(units)
        count = min(self._load.concurrency or len(units), len(units))
        starts = slot_starts(count, self._load.ramp_s)
        slots = [asyncio.ensure_future(self._slot(left, start)) for start in starts]
        try:
            await asyncio.gather(*slots)
        finally:
            await _end(slots)

    async def _slot(self, left: Iterator[_Unit], start: float) -> None:
        if start:
            await asyncio.sleep(start)
        for unit in left:
            now = time.perf_counter() - self._began
            if self._over(now):
                return
            await self._send_job(unit._replace(offset=now))

    async def _one(self, unit: _Unit, gate: asyncio.Semaphore | None) -> None:
        try:
            await self._send_job(unit)
        finally:
            if gate is not None:
                gate.release()

    async def _send_job(self, unit: _Unit) -> None:
        history: list[ChatMessage] = []
        many = len(unit.job) > 1
        for turn, sample in enumerate(unit.job):
            prepared = self._endpoint.prepare(sample, history) if turn else unit.first
            scheduled = time.perf_counter() if turn else self._began + unit.offset
            record = self._begin(sample, scheduled, whole_prompt_known=not turn)
            await self._endpoint.send(prepared, record, keep_text=many)
            self.ended += 1
            if record.error:
                self.failed += 1
                return  # what comes after would be another conversation
            history += (*sample.messages, ChatMessage("assistant", record.text))

    def _begin(self, sample: Sample, scheduled: float, *, whole_prompt_known: bool) -> Record:
        record = Record(
            len(self._records),
            asked_tokens=sample.max_tokens,
            expected_prompt_tokens=sample.expected_prompt_tokens if whole_prompt_known else 0,
            scheduled=scheduled,
        )
        self._records.append(record)
        return record


async def _tick(on_tick: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(0.5)
        on_tick()


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    """Leaves no task behind when a run is interrupted."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
