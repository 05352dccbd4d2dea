"""`bench throughput`: an engine directly; no server, text or network. It is kept as full as it allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from qwenserve.bench.datasets.made import Shape, random_jobs
from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.document import Measured
from qwenserve.bench.findings import Intent, examine
from qwenserve.bench.measures import measure
from qwenserve.bench.meter import Meter
from qwenserve.bench.record import Record
from qwenserve.bench.samples import Sample, repeated_prompts
from qwenserve.bench.serve import Dataset, Results
from qwenserve.runtime.config import Config
from qwenserve.runtime.deadlines import within
from qwenserve.worker.engine_interface import (
    Chunk,
    Engine,
    EngineError,
    EngineInfo,
    EngineRefusal,
    EngineRequest,
    Sampling,
)

_START_TIMEOUT_S = 600.0


class EngineRun:
    """Keeps an engine full with samples until all have ended. One per measurement."""

    def __init__(self, engine: Engine, samples: Sequence[Sample]) -> None:
        self._engine = engine
        self._samples = samples
        self._next = 0
        self._running: dict[int, Record] = {}
        self._ended = asyncio.get_running_loop().create_future()
        self.records: list[Record] = []

    def deliver(self, chunks: Sequence[Chunk]) -> None:
        """Takes one step's chunks and tops the engine up."""
        now = time.perf_counter()
        freed = False
        for chunk in chunks:
            record = self._running.get(chunk.key)
            if record is None:
                continue
            if chunk.token_ids:
                record.arrived(now, len(chunk.token_ids))
                record.completion_tokens += len(chunk.token_ids)
            if chunk.finish is not None:
                record.finish_reason = chunk.finish.reason.name
                record.cached_tokens = chunk.finish.cached_tokens
                record.error = chunk.finish.error[:80]
                self._end(chunk.key, record, now)
                freed = True
        if freed:
            # Not from inside the engine's own call.
            asyncio.get_running_loop().call_soon(self._fill)

    def died(self, error: EngineError) -> None:
        """The engine died: the run is over."""
        if not self._ended.done():
            self._ended.set_exception(error)

    async def __call__(self, max_running: int, timeout_s: float) -> None:
        """Runs all samples. Raises EngineError when the engine dies, asyncio.TimeoutError."""
        self._max_running = max_running
        self._fill()
        await within(timeout_s, self._ended)

    def _fill(self) -> None:
        while self._next < len(self._samples) and len(self._running) < self._max_running:
            key, sample = self._next + 1, self._samples[self._next]
            self._next += 1
            record = Record(key - 1, asked_tokens=sample.max_tokens, expected_prompt_tokens=len(sample.token_ids))
            record.prompt_tokens = len(sample.token_ids)
            record.sent = record.scheduled = time.perf_counter()
            self.records.append(record)
            self._running[key] = record
            sampling = Sampling(temperature=0.0, max_tokens=sample.max_tokens, ignore_eos=True)
            try:
                self._engine.submit(EngineRequest(key, sample.token_ids, sampling))
            except EngineRefusal as refusal:
                record.error = f"refused: {refusal}"[:80]
                self._end(key, record, time.perf_counter())
        if not self._running and self._next == len(self._samples) and not self._ended.done():
            self._ended.set_result(None)

    def _end(self, key: int, record: Record, now: float) -> None:
        record.ended = now
        del self._running[key]


class _Relay:
    """Engines take their callbacks once, at start; runs come and go."""

    def __init__(self) -> None:
        self.run: EngineRun | None = None

    def deliver(self, chunks: Sequence[Chunk]) -> None:
        if self.run is not None:
            self.run.deliver(chunks)

    def died(self, error: EngineError) -> None:
        if self.run is not None:
            self.run.died(error)


def prompt_ids(info: EngineInfo) -> Vocabulary:
    """Returns the ids that prompts are drawn from: those below the first end token, where special ids begin."""
    first = min(info.eos_token_ids, default=info.vocab_size)
    return Vocabulary(range(first if first > 1 else info.vocab_size))


async def measure_engine(
    build: Callable[[], Engine], dataset: Dataset, *, repeat: int, warmup: int, timeout_s: float = 3600.0
) -> Results:
    """Starts the engine, runs the dataset `repeat` times, stops the engine. Raises EngineError."""
    engine = await asyncio.to_thread(build)
    relay = _Relay()
    info = await within(_START_TIMEOUT_S, engine.start(relay.deliver, relay.died))
    runs = []
    try:
        for number in range(-1 if warmup else 0, repeat):
            seed = dataset.seed + 1009 * number if number >= 0 else dataset.seed ^ 0x5EED
            count = dataset.requests if number >= 0 else warmup
            run = await _one_run(engine, info, relay, dataset._replace(seed=seed, requests=count), timeout_s)
            if number >= 0:
                runs.append(run)
    finally:
        relay.run = None
        await engine.stop()
    simulated = " (simulated: a timing model, not a model)" if info.simulated else ""
    method = (
        f"engine {info.name} {info.version}{simulated} in this process, {info.max_running} requests at a time; "
        f"{dataset.describe()}; greedy, answers run to their limit; {warmup} warm-up requests not counted; "
        f"{repeat} run{'s' if repeat > 1 else ''}"
    )
    return Results(method, runs)


async def _one_run(engine: Engine, info: EngineInfo, relay: _Relay, dataset: Dataset, timeout_s: float) -> Measured:
    jobs = random_jobs(dataset.requests, Shape(dataset.prompt, dataset.output, "ids", dataset.seed), prompt_ids(info))
    relay.run = run = EngineRun(engine, [job[0] for job in jobs])
    meter = Meter()
    meter.start()
    try:
        await run(info.max_running, timeout_s)
    finally:
        # The engine may compute in this very process: its CPU is no sign of a busy client.
        usage = meter.stop()._replace(lag_p99_ms=0.0)
    figures = measure(run.records)
    intent = Intent(False, None, repeated_prompts(jobs), expects_cache=False, exact_lengths=True)
    findings = examine(figures, run.records, usage._replace(cpu_share=0.0), intent)
    merged = [finding for finding in findings if finding.code != "MERGED_EVENTS"]
    return Measured(figures, usage, merged, run.records)


def configured_engine(config: Config) -> Callable[[], Any]:
    """Returns what builds the configured engine."""

    def build() -> Any:
        from qwenserve.worker.engine_choice import build_engine  # engines are heavy: only loaded where one is measured

        return build_engine(config).engine

    return build
