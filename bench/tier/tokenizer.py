"""Rows about the separate tokenizer tier: what it costs beside the same work inside the router, and what it gains.

Two deployments, one with a tokenizer process and one without, are loaded in turn: many short prompts, few long ones,
one request at a time for the latency, and long prompts beside paced streams, whose tokens may have to wait for them.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.findings import Finding
from qwenserve.bench.load import Load, Run
from qwenserve.bench.measures import measure
from qwenserve.bench.schedule import Arrivals
from qwenserve.bench.tier.burden import Burden, TierError, burden, disturbances
from qwenserve.bench.tier.context import PROMPT_TOKENS, Context, chat_endpoint, words
from qwenserve.bench.tier.memory import at_rest
from qwenserve.bench.tier.stack import Stack, StackSettings, deployment
from qwenserve.bench.tier.table import Row

_LONG_TOKENS = 8000
_STEP_MS = 10.0
_STREAMS = 32
_LONG_PER_S = 20.0


class _Size(NamedTuple):
    """One length of prompts: how many a second there are about, and how many at a time."""

    tokens: int
    per_s: float
    concurrency: int


_SIZES = (_Size(PROMPT_TOKENS, 300.0, 16), _Size(_LONG_TOKENS, 20.0, 4))


async def tokenizer_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """CPU of router and tokenizer per request, latency, memory, and gaps between others' tokens."""
    model = context.memory_model or context.model
    cores = context.share_out(tokenizers=1)
    burdens: list[Burden] = []
    # No time a token: nothing but the tier is in the way of a request.
    async with (
        deployment(StackSettings(model, 0.0), cores._replace(tokenizers=[])) as inside,
        deployment(StackSettings(model, 0.0), cores) as apart,
    ):
        rows = await _memory(inside, apart, model.rstrip("/").rsplit("/", 1)[-1])
        vocabulary = await words(inside)
        for size in _SIZES:
            rows += await _costs(context, size, inside, apart, vocabulary, burdens)
    rows += await _beside_streams(context, model, vocabulary)
    findings = disturbances("tokenizer", burdens, context.core_count)
    if not cores.apart or len(cores.tokenizers[0] & cores.client):
        text = "the tokenizer process shares a core with worker and client: what it adds to latencies is overstated."
        findings.append(Finding("SHARED_CORE", text, {"row": "tokenizer"}))
    return rows, findings


async def _memory(inside: Stack, apart: Stack, name: str) -> list[Row]:
    own, router, tier = await asyncio.gather(
        at_rest(inside.routers[0]), at_rest(apart.routers[0]), at_rest(apart.tokenizers[0])
    )
    return [
        Row("tokenizer.memory.inside", f"router at rest, tokenizer {name} inside", "MiB", [own]),
        Row("tokenizer.memory.router", "  router at rest, with the tokenizer tier", "MiB", [router]),
        Row("tokenizer.memory.tier", "  tokenizer process at rest", "MiB", [tier]),
    ]


async def _costs(
    context: Context, size: _Size, inside: Stack, apart: Stack, vocabulary: Vocabulary, burdens: list[Burden]
) -> list[Row]:
    """Rows about prompts of one length; adds what was measured to `burdens`."""
    own: list[float] = []
    router: list[float] = []
    tier: list[float] = []
    added: list[float] = []
    count = max(16, round(size.per_s * context.seconds))
    for number in range(context.repeats):
        context.say(f"tokenizer, {size.tokens} tokens: repetition {number + 1} of {context.repeats}")
        one = await _whole(context, inside, vocabulary, size.tokens, count, size.concurrency)
        other = await _whole(context, apart, vocabulary, size.tokens, count, size.concurrency)
        burdens += [one, other]
        own.append(one.ms_per_request)
        router.append(other.cpu_s[0] / other.figures.succeeded * 1e3)
        tier.append(other.cpu_s[1] / other.figures.succeeded * 1e3)
        few = max(16, count // 4)
        first = await _whole(context, inside, vocabulary, size.tokens, few, 1)
        second = await _whole(context, apart, vocabulary, size.tokens, few, 1)
        added.append(second.figures.e2e_ms.p50 - first.figures.e2e_ms.p50)
    key, prompt = f"tokenizer.{size.tokens}", f"{size.tokens:,}-token prompt, 1 answer token"
    return [
        Row(f"{key}.inside", f"request, {prompt}: router, tokenizer inside", "ms CPU", own),
        Row(f"{key}.router", "  router, with the tokenizer tier", "ms CPU", router),
        Row(f"{key}.tier", "  tokenizer process", "ms CPU", tier, None, f"{size.concurrency} requests at a time"),
        Row(f"{key}.added", "  time that the tier adds to a request, p50", "ms", added, None, "one request at a time"),
    ]


async def _whole(
    context: Context, stack: Stack, vocabulary: Vocabulary, tokens: int, count: int, concurrency: int
) -> Burden:
    endpoint = chat_endpoint(stack.http_url, stream=False)
    try:
        jobs = context.jobs(count, vocabulary, prompt=tokens, output=1)
        measured = (*stack.routers, *stack.tokenizers)
        return await burden(endpoint, jobs, Load(concurrency=concurrency), measured, stack.workers)
    finally:
        await endpoint.close()


async def _beside_streams(context: Context, model: str, vocabulary: Vocabulary) -> list[Row]:
    """Gaps between the tokens of paced streams while long prompts arrive: with the tokenizer inside, and apart."""
    cores = context.share_out(tokenizers=1)
    inside: list[float] = []
    apart: list[float] = []
    async with (
        deployment(StackSettings(model, _STEP_MS), cores._replace(tokenizers=[])) as one,
        deployment(StackSettings(model, _STEP_MS), cores) as other,
    ):
        for number in range(context.repeats):
            context.say(f"tokenizer, long prompts beside streams: repetition {number + 1} of {context.repeats}")
            inside.append(await _gap_p99_ms(context, one, vocabulary))
            apart.append(await _gap_p99_ms(context, other, vocabulary))
    note = f"{_STREAMS} streams, {_STEP_MS:g} ms a token; {_LONG_PER_S:g} prompts of {_LONG_TOKENS:,} tokens a second"
    return [
        Row("tokenizer.beside.inside", "gap between tokens beside long prompts, p99: tokenizer inside", "ms", inside),
        Row("tokenizer.beside.tier", "  with the tokenizer tier", "ms", apart, None, note),
    ]


async def _gap_p99_ms(context: Context, stack: Stack, vocabulary: Vocabulary) -> float:
    """Returns p99 of the streams' gaps in milliseconds. Raises TierError when a request failed."""
    streams, prompts = chat_endpoint(stack.http_url), chat_endpoint(stack.http_url, stream=False)
    paced = context.jobs(_STREAMS * context.rounds(_STEP_MS), vocabulary)
    long = context.jobs(max(8, round(_LONG_PER_S * context.seconds)), vocabulary, prompt=_LONG_TOKENS, output=1)
    try:
        outcomes = await asyncio.gather(
            Run(streams, Load(concurrency=_STREAMS))(paced), Run(prompts, Load(Arrivals(_LONG_PER_S)))(long)
        )
    finally:
        await streams.close()
        await prompts.close()
    figures = [measure(outcome.records) for outcome in outcomes]
    if any(one.failed for one in figures):
        raise TierError(f"requests failed: {[dict(one.errors) for one in figures]}")
    return figures[0].itl_ms.p99
