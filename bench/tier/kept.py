"""Rows about kept answers: what the store costs a new prompt, and what a repeated one saves."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from qwenserve.bench.findings import Finding
from qwenserve.bench.samples import Job
from qwenserve.bench.tier.burden import Burden, disturbances
from qwenserve.bench.tier.context import Context, words
from qwenserve.bench.tier.processes import free_ports, running
from qwenserve.bench.tier.stack import Stack, StackSettings, deployment
from qwenserve.bench.tier.table import Row, ratio_row
from qwenserve.bench.tier.whole import http_burden
from qwenserve.text.assets import load_assets

_START_TIMEOUT_S = 30.0
_REQUESTS_PER_S = 200
_LONGER = (2_000, 30_000)
_TEMPLATE_TOKENS = 100
# Tokens of a longer prompt that a router takes in a second, roughly.
_TOKENS_PER_S = 300_000


async def kept_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """Whole answers of one token, with a Redis server and without, in turn: prompts that are new, and repeated."""
    burdens: dict[str, list[Burden]] = {}
    async with _both(context) as (plain, storing):
        vocabulary = await words(plain)
        window = load_assets(Path(context.model)).max_model_len
        longer = [tokens for tokens in _LONGER if not window or tokens + _TEMPLATE_TOKENS < window]

        async def ask(key: str, stack: Stack, jobs: Sequence[Job]) -> None:
            burdens.setdefault(key, []).append(await http_burden(stack, jobs, 16, stream=False))

        for number in range(context.repeats):
            context.say(f"kept: repetition {number + 1} of {context.repeats}")
            count = max(100, round(_REQUESTS_PER_S * context.seconds))
            jobs = context.jobs(count, vocabulary, output=1)
            await ask("off", plain, jobs)
            await ask("new", storing, jobs)
            await ask("repeat", storing, jobs)
            for tokens in longer:
                count = max(16, round(_TOKENS_PER_S * context.seconds / tokens))
                jobs = context.jobs(count, vocabulary, prompt=tokens, output=1)
                await ask(f"off.{tokens}", plain, jobs)
                await ask(f"new.{tokens}", storing, jobs)
                await ask(f"repeat.{tokens}", storing, jobs)
    return _rows(burdens, longer), disturbances(
        "kept", [b for found in burdens.values() for b in found], context.core_count
    )


def _rows(burdens: dict[str, list[Burden]], longer: Sequence[int]) -> list[Row]:
    cost = {key: [b.ms_per_request for b in found] for key, found in burdens.items()}
    rows = [
        Row("kept.off", "request, 200-token prompt, no store", "ms CPU", cost["off"]),
        Row("kept.new", "the same, answers kept in Redis, prompt new", "ms CPU", cost["new"]),
        Row("kept.repeat", "the same, answered from Redis", "ms CPU", cost["repeat"]),
        ratio_row("kept.new_by_off", "new prompt: with the store by without", cost["new"], cost["off"], goal=1.1),
        ratio_row(
            "kept.repeat_by_off", "repeat from the store by a new one without", cost["repeat"], cost["off"], goal=1.0
        ),
    ]
    for tokens in longer:
        off, new, repeat = (cost[f"{key}.{tokens}"] for key in ("off", "new", "repeat"))
        rows += [
            Row(f"kept.off.{tokens}", f"request, {tokens:,}-token prompt, no store", "ms CPU", off),
            ratio_row(
                f"kept.new_by_off.{tokens}", f"{tokens:,} tokens, new: with the store by without", new, off, goal=None
            ),
            ratio_row(f"kept.repeat_by_off.{tokens}", f"{tokens:,} tokens, repeat by new", repeat, off, goal=None),
        ]
    return rows


@contextlib.asynccontextmanager
async def _both(context: Context) -> AsyncIterator[tuple[Stack, Stack]]:
    """A deployment without a store, and one with a Redis server of its own."""
    (port,) = free_ports(1)
    plain = StackSettings(context.model, 0.0)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running("store", "qwenserve.bench.tier.store_server", [str(port)], context.cores.client)
        )
        await server.wait_for_port(port, _START_TIMEOUT_S)
        storing = plain._replace(store_url=f"redis://127.0.0.1:{port}")
        yield (
            await stack.enter_async_context(deployment(plain, context.cores)),
            await stack.enter_async_context(deployment(storing, context.cores)),
        )
