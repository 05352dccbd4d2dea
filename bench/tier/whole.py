"""Rows about requests as a whole: one answer token, long prompts, several routers, memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from bench.datasets.vocabulary import Vocabulary
from bench.findings import Finding
from bench.load import Load
from bench.samples import ChatMessage, Job, Sample
from bench.tier.burden import Burden, burden, disturbances
from bench.tier.context import STREAMS, Context, chat_endpoint, words
from bench.tier.processes import Process
from bench.tier.stack import Stack, StackSettings, deployment
from bench.tier.table import Row

_LONG_TOKENS = 8000
_TURN_TOKENS = 100
_ONE_TOKEN_REQUESTS_PER_S = 400
_LONG_REQUESTS_PER_S = 8
_MEMORY_BATCH = 2000

Found = tuple[list[Row], list[Finding]]


async def request_rows(context: Context) -> Found:
    """A 200-token prompt with one answer token: whole, and as a stream of one token."""
    burdens: dict[bool, list[Burden]] = {False: [], True: []}
    count = max(200, round(_ONE_TOKEN_REQUESTS_PER_S * context.seconds))
    async with deployment(StackSettings(context.model, 0.0), context.cores) as stack:
        vocabulary = await words(stack)
        for number in range(context.repeats):
            context.say(f"request: repetition {number + 1} of {context.repeats}")
            for stream in (False, True):
                jobs = context.jobs(count, vocabulary, output=1)
                burdens[stream].append(await _http(stack, jobs, 16, stream=stream))
    rows = [
        Row(
            f"request.{'streamed' if stream else 'whole'}",
            f"request, 200-token prompt, 1 answer token, {'streamed' if stream else 'not streamed'}",
            "ms CPU",
            [b.ms_per_request for b in found],
            0.4,
            "16 at a time",
        )
        for stream, found in burdens.items()
    ]
    return rows, disturbances("request", [*burdens[False], *burdens[True]], len(context.cores.all))


async def _http(stack: Stack, jobs: Sequence[Job], concurrency: int, *, stream: bool = True) -> Burden:
    endpoint = chat_endpoint(stack.http_url, stream=stream)
    try:
        return await burden(endpoint, jobs, Load(concurrency=concurrency), stack.routers, (stack.worker,))
    finally:
        await endpoint.close()


async def long_rows(context: Context) -> Found:
    """An 8,000-token prompt: never seen, and sharing all but its last turn with an earlier one."""
    first: list[Burden] = []
    shared: list[Burden] = []
    count = max(16, round(_LONG_REQUESTS_PER_S * context.seconds))
    async with deployment(StackSettings(context.model, 0.0), context.cores) as stack:
        vocabulary = await words(stack)
        for number in range(context.repeats):
            context.say(f"long: repetition {number + 1} of {context.repeats}")
            jobs = context.jobs(count, vocabulary, prompt=_LONG_TOKENS, output=1)
            first.append(await _http(stack, jobs, 4))
            earlier, *later = shared_turns(count + 1, vocabulary, next(context.seeds))
            await _http(stack, [earlier], 1)
            shared.append(await _http(stack, later, 4))
    rows = [
        Row(
            "long.first", f"{_LONG_TOKENS:,}-token prompt, first time", "ms CPU", [b.ms_per_request for b in first], 8.0
        ),
        Row(
            "long.shared",
            f"{_LONG_TOKENS:,}-token prompt, all but the last turn seen before",
            "ms CPU",
            [b.ms_per_request for b in shared],
            2.0,
            f"last turn {_TURN_TOKENS} tokens",
        ),
    ]
    return rows, disturbances("long", [*first, *shared], len(context.cores.all))


def shared_turns(count: int, vocabulary: Vocabulary, seed: int) -> list[Job]:
    """Returns chats of three messages with equal first two: 8,000 tokens in all, the last turn always another."""
    random = np.random.default_rng(seed)

    def text(tokens: int) -> str:
        return vocabulary.to_text(vocabulary.draw(tokens, random))

    before = _LONG_TOKENS - 2 * _TURN_TOKENS
    opening = (ChatMessage("user", text(before)), ChatMessage("assistant", text(_TURN_TOKENS)))
    return [(Sample(1, messages=(*opening, ChatMessage("user", text(_TURN_TOKENS)))),) for _ in range(count)]


async def scaling_rows(context: Context) -> Found:
    """1, 2 and 4 routers that share a port: throughput, CPU per token, and how evenly they are used."""
    rows: list[Row] = []
    findings: list[Finding] = []
    rounds = max(1, round(context.seconds))
    for routers in (1, 2, 4):
        burdens: list[Burden] = []
        settings = StackSettings(context.model, 0.0, routers=routers)
        async with deployment(settings, context.cores) as stack:
            vocabulary = await words(stack)
            for number in range(context.repeats):
                context.say(f"scaling, {routers} routers: repetition {number + 1} of {context.repeats}")
                burdens.append(await _http(stack, context.jobs(STREAMS * rounds, vocabulary), STREAMS))
        tokens = [b.figures.output_tokens / b.figures.duration_s for b in burdens]
        note = f"{sorted(b.us_per_token for b in burdens)[len(burdens) // 2]:.1f} µs CPU a token in all routers"
        rows.append(Row(f"scaling.{routers}", f"{routers} router(s) on one port", "tokens/s", tokens, None, note))
        if routers > 1:
            share = [min(b.cpu_s) / max(b.cpu_s) for b in burdens]
            work = f"  least used / most used of {routers}"
            rows.append(Row(f"scaling.even.{routers}", work, "ratio", share, None, "CPU time; 1 is even"))
        findings += disturbances(f"{routers} routers", burdens, len(context.cores.all))
    cores = len(context.cores.all)
    if cores < 6:
        text = f"{cores} cores for four routers, worker and client: throughput cannot grow with routers here."
        findings.append(Finding("TOO_FEW_CORES", text, {"cores": cores}))
    return rows, findings


async def memory_rows(context: Context) -> Found:
    """Resident memory of a router at rest, and its growth over the second half of many requests."""
    model = context.memory_model or context.model
    async with deployment(StackSettings(model, 0.0), context.cores) as stack:
        router = stack.routers[0]
        started = router.resident_mib()
        resting = await at_rest(router)
        vocabulary = await words(stack)
        samples: list[tuple[int, float]] = []
        sent = 0
        while sent < context.memory_requests:
            batch = min(_MEMORY_BATCH, context.memory_requests - sent)
            await _http(stack, context.jobs(batch, vocabulary, prompt=64, output=4), 64)
            sent += batch
            samples.append((sent, router.resident_mib()))
            context.say(f"memory: {sent} requests, {samples[-1][1]:.1f} MiB")
    name = model.rstrip("/").rsplit("/", 1)[-1]
    at = f"{started:.0f} MiB the moment it was ready"
    rows = [
        Row("memory.rest", f"resident memory of a router at rest, tokenizer {name}", "MiB", [resting], 150.0, at),
        Row("memory.after", f"  after {sent:,} requests", "MiB", [samples[-1][1]]),
    ]
    growth = growth_per_million(samples)
    if growth is not None:
        note = f"least squares over the last half of {sent:,} requests; bounded caches fill first"
        rows.append(Row("memory.growth", "  growth per million requests", "MiB", [growth], None, note))
    findings = []
    if sent < 1_000_000:
        text = f"memory was followed over {sent:,} requests; the goal is told for 1,000,000 (--memory-requests)."
        findings.append(Finding("SHORT_MEMORY_RUN", text, {"requests": sent}))
    return rows, findings


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
    """Returns MiB per million requests: the slope over the second half of the samples. None for too few."""
    if not samples:
        return None
    late = [(count, mib) for count, mib in samples if count > samples[-1][0] / 2]
    if len(late) < 3:
        return None
    counts, mibs = zip(*late, strict=True)
    return float(np.polyfit(counts, mibs, 1)[0] * 1e6)
