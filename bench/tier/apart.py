"""The row about HTTP in a process of its own: a shim in front of a router, beside the router's own HTTP."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence

from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.findings import Finding
from qwenserve.bench.load import Load
from qwenserve.bench.tier.burden import Burden, burden, disturbances
from qwenserve.bench.tier.context import STREAMS, Context, chat_endpoint, words
from qwenserve.bench.tier.cores import Cores
from qwenserve.bench.tier.processes import Process, free_ports, running
from qwenserve.bench.tier.stack import StackSettings, deployment
from qwenserve.bench.tier.streamed import PACED_STEP_MS
from qwenserve.bench.tier.table import Row, ratio_row

_START_TIMEOUT_S = 60.0
_READY = '"event": "router_ready"'


async def shim_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """A streamed token through a shim: the shim's share, its router's, and that of a router that speaks HTTP itself."""
    shims: list[Burden] = []
    routers: list[Burden] = []
    alone: list[Burden] = []
    async with (
        deployment(StackSettings(context.model, PACED_STEP_MS), context.cores) as stack,
        _shim(stack.grpc_address, context.cores) as (shim, url),
    ):
        vocabulary = await words(stack)
        rounds = context.rounds(PACED_STEP_MS)
        await _drive(context, url, vocabulary, 1, (shim,), stack.workers)  # connections, caches and code paths are warm
        for number in range(context.repeats):
            context.say(f"shim: repetition {number + 1} of {context.repeats}")
            shims.append(await _drive(context, url, vocabulary, rounds, (shim,), stack.workers))
            routers.append(await _drive(context, url, vocabulary, rounds, stack.routers, stack.workers))
            alone.append(await _drive(context, stack.http_url, vocabulary, rounds, stack.routers, stack.workers))
    paced = f"streamed token, HTTP SSE, paced {PACED_STEP_MS:g} ms, {STREAMS} streams"
    shim_us, router_us, alone_us = ([each.us_per_event for each in found] for found in (shims, routers, alone))
    rows = [
        Row("shim.shim", f"{paced}: shim", "µs CPU", shim_us, None, "qwenserve shim, over gRPC ChatSession"),
        Row("shim.router", "  router behind it", "µs CPU", router_us),
        Row("shim.alone", "  router with HTTP of its own", "µs CPU", alone_us),
        ratio_row("shim.ratio", "  shim and router / router with HTTP", _sum(shim_us, router_us), alone_us, goal=None),
    ]
    return rows, disturbances("shim", [*shims, *routers, *alone], context.core_count)


def _sum(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]


async def _drive(
    context: Context,
    url: str,
    vocabulary: Vocabulary,
    rounds: int,
    measured: Sequence[Process],
    beside: Sequence[Process],
) -> Burden:
    endpoint = chat_endpoint(url)
    try:
        jobs = context.jobs(STREAMS * rounds, vocabulary)
        return await burden(endpoint, jobs, Load(concurrency=STREAMS), measured, beside)
    finally:
        await endpoint.close()


@contextlib.asynccontextmanager
async def _shim(router: str, cores: Cores) -> AsyncIterator[tuple[Process, str]]:
    """A shim in front of a router, on the router's cores. Raises ProcessError."""
    (port,) = free_ports(1)
    settings = {"http.port": port, "shim.routers": [router], "log.level": "info", "log.format": "json"}
    arguments = [
        part
        for key, value in settings.items()
        for part in ("--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    ]
    async with running("shim", "qwenserve.router.shim", arguments, cores.measured) as process:
        await process.wait_for(_READY, _START_TIMEOUT_S)
        yield process, f"http://127.0.0.1:{port}"
