"""Rows about a router's resident memory: at rest, and over many requests whose prompts never repeat."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from qwenserve.bench.findings import Finding
from qwenserve.bench.tier.context import Context, words
from qwenserve.bench.tier.processes import Process
from qwenserve.bench.tier.stack import Stack, StackSettings, deployment
from qwenserve.bench.tier.table import Row
from qwenserve.bench.tier.wrk import WrkLoad, installed, left_out, run_wrk

# Short, so that a million takes minutes; half of the answers are streamed.
_LOAD = WrkLoad(prompt=32, answer=2, streamed=50, connections=64)
_SAMPLES = 50
_POLL_S = 0.2
_GOAL_REQUESTS = 1_000_000
# What counts as flat, in MiB per million requests.
_GOAL_GROWTH = 1.0


class Sample(NamedTuple):
    """A router's resident memory after so many requests, and what of it is its token cache, by its own count."""

    requests: int
    mib: float
    cache_mib: float


async def memory_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """Resident memory of a router at rest, after a tenth, half and all of the requests, and its growth over the second
    half."""
    model = context.memory_model or context.model
    samples: list[Sample] = []
    async with deployment(StackSettings(model, 0.0), context.cores) as stack:
        router = stack.routers[0]
        started = router.resident_mib()
        resting = await at_rest(router)
        if installed():
            vocabulary = await words(stack)
            watch = _watch(context, stack, samples)
            await run_wrk(stack.http_url, _LOAD, vocabulary, next(context.seeds), until=watch)
    name = model.rstrip("/").rsplit("/", 1)[-1]
    at = f"{started:.0f} MiB the moment it was ready"
    rest = Row("memory.rest", f"resident memory of a router at rest, tokenizer {name}", "MiB", [resting], 150.0, at)
    if not samples:
        return [rest], [left_out("the rows of memory under load were")]
    rows = [rest, *_growth(samples)]
    findings = []
    total = samples[-1].requests
    if total < _GOAL_REQUESTS:
        text = f"memory was followed over {total:,} requests; the goal is told for 1,000,000 (--memory-requests)."
        findings.append(Finding("SHORT_MEMORY_RUN", text, {"requests": total}))
    return rows, findings


def _growth(samples: Sequence[Sample]) -> list[Row]:
    total = samples[-1].requests
    rows = []
    for share in (0.1, 0.5, 1.0):
        count, mib, cache = next(one for one in samples if one.requests >= share * total)
        note = f"{cache:.1f} MiB in the token cache"
        rows.append(Row(f"memory.{share * 100:.0f}%", f"  after {count:,} requests", "MiB", [mib], None, note))
    growth = growth_per_million([(one.requests, one.mib) for one in samples])
    if growth is not None:
        note = f"least squares over the last half of {total:,} requests; the token cache fills first"
        goal = _GOAL_GROWTH if total >= _GOAL_REQUESTS else None
        rows.append(Row("memory.growth", "  growth per million requests", "MiB", [growth], goal, note))
    return rows


async def _watch(context: Context, stack: Stack, samples: list[Sample]) -> None:
    """Notes a router's memory every fiftieth of the requests, until it has answered all of them."""
    router = stack.routers[0]
    due = step = max(1, context.memory_requests // _SAMPLES)
    while True:
        await asyncio.sleep(_POLL_S)
        metrics = await asyncio.to_thread(exposition, stack.http_url)
        done = count_requests(metrics)
        if done < due:
            continue
        samples.append(Sample(done, router.resident_mib(), cache_bytes(metrics) / 2**20))
        context.say(f"memory: {done:,} of {context.memory_requests:,} requests, {samples[-1].mib:.1f} MiB")
        for process in (router, stack.worker):
            process.forget_log()  # a line a request
        if done >= context.memory_requests:
            return
        due = min(context.memory_requests, (done // step + 1) * step)


def exposition(url: str) -> str:
    """Returns a router's metrics as it tells them."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as reply:
        text: str = reply.read().decode()
    return text


def count_requests(metrics: str) -> int:
    """Returns the answers of all kinds and outcomes that a router's metrics count."""
    return int(_sum(metrics, "qwenserve_requests_total"))


def cache_bytes(metrics: str) -> float:
    """Returns what a router's token cache occupies by its metrics."""
    return _sum(metrics, "qwenserve_token_cache_bytes")


def _sum(metrics: str, name: str) -> float:
    families = text_string_to_metric_families(metrics)
    return float(sum(sample.value for family in families for sample in family.samples if sample.name == name))


async def at_rest(process: Process) -> float:
    """Returns a process's resident memory in MiB once it has stopped changing, or after ten seconds."""
    last = process.resident_mib()
    calm = 0
    for _ in range(20):
        await asyncio.sleep(0.5)
        now = process.resident_mib()
        calm = calm + 1 if abs(now - last) < 1.0 else 0
        last = now
        if calm == 6:
            break
    return last


def growth_per_million(samples: Sequence[tuple[int, float]]) -> float | None:
    """Returns MiB per million requests: the slope over the second half of counts and MiB. None for too few."""
    if not samples:
        return None
    late = [(count, mib) for count, mib in samples if count > samples[-1][0] / 2]
    if len(late) < 3:
        return None
    counts, mibs = zip(*late, strict=True)
    return float(np.polyfit(counts, mibs, 1)[0] * 1e6)
