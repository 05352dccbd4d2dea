"""Rows about choosing a worker: whole requests with two workers to choose from, short and long."""

from __future__ import annotations

from qwenserve.bench.findings import Finding
from qwenserve.bench.tier.burden import Burden, disturbances
from qwenserve.bench.tier.context import Context, words
from qwenserve.bench.tier.stack import StackSettings, deployment
from qwenserve.bench.tier.table import Row
from qwenserve.bench.tier.whole import http_burden

_WORKERS = 2
# Tokens of a prompt, requests a second that a router answers at the least, and how many are under way.
_LOADS = ((200, 400, 16), (8000, 8, 4))


async def route_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """Prompts never sent before, one answer token: the prompt's blocks are hashed, looked up and recorded."""
    found: dict[int, list[Burden]] = {tokens: [] for tokens, _, _ in _LOADS}
    async with deployment(StackSettings(context.model, 0.0), context.share_out(workers=_WORKERS)) as stack:
        vocabulary = await words(stack)
        for number in range(context.repeats):
            context.say(f"route: repetition {number + 1} of {context.repeats}")
            for tokens, per_second, concurrency in _LOADS:
                jobs = context.jobs(
                    max(concurrency, round(per_second * context.seconds)), vocabulary, prompt=tokens, output=1
                )
                found[tokens].append(await http_burden(stack, jobs, concurrency))
    rows = [
        Row(
            f"route.{tokens}",
            f"request, {tokens:,}-token prompt, 1 answer token, {_WORKERS} workers to choose from",
            "ms CPU",
            [burden.ms_per_request for burden in burdens],
        )
        for tokens, burdens in found.items()
    ]
    return rows, disturbances("route", [one for burdens in found.values() for one in burdens], context.core_count)
