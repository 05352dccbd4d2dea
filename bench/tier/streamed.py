"""Rows about streams: HTTP beside the floors, and gRPC."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from qwenserve.bench.clients.endpoint import Endpoint, Generation
from qwenserve.bench.clients.grpc import GrpcEndpoint, SessionEndpoint
from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.findings import Finding
from qwenserve.bench.load import Load
from qwenserve.bench.tier.burden import Burden, burden, disturbances
from qwenserve.bench.tier.context import STREAMS, Context, chat_endpoint, words
from qwenserve.bench.tier.processes import ProcessError
from qwenserve.bench.tier.stack import Floor, Stack, StackSettings, deployment, protocol_floor, uvicorn_floor
from qwenserve.bench.tier.table import Row, ratio_row
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.grpc_setup import make_channel

PACED_STEP_MS = 10.0
_FAST_ROUNDS_PER_S = 2.0
_PACED = f"streamed token, HTTP SSE, paced {PACED_STEP_MS:g} ms, {STREAMS} streams"
_FAST = f"streamed token, HTTP SSE, engine as fast as it can, {STREAMS} streams"

Found = tuple[list[Row], list[Finding]]


async def http_rows(context: Context, step_ms: float) -> Found:
    """The tier and both floors in turn, at one pace. The floors' rows are left out where uvicorn is not installed."""
    name = "paced" if step_ms else "fast"
    rounds = context.rounds(step_ms) if step_ms else max(1, round(context.seconds * _FAST_ROUNDS_PER_S))
    tier: list[Burden] = []
    floors: dict[str, list[Burden]] = {}
    findings: list[Finding] = []
    async with contextlib.AsyncExitStack() as opened:
        stack = await opened.enter_async_context(deployment(StackSettings(context.model, step_ms), context.cores))
        ready = []
        try:
            for one_beat in (False, True)[: 2 if step_ms else 1]:
                bare = uvicorn_floor(step_ms, context.cores, one_beat=one_beat)
                ready.append(await opened.enter_async_context(bare))
        except ProcessError as error:
            findings.append(Finding("NO_UVICORN", f"the bare uvicorn floor was left out: {error}"[:200], {}))
        ready.append(await opened.enter_async_context(protocol_floor(step_ms, context.cores)))
        vocabulary = await words(stack)
        await _drive(context, stack.http_url, vocabulary, 1, stack)  # connections, caches and code paths are warm
        for number in range(context.repeats):
            context.say(f"{name}: repetition {number + 1} of {context.repeats}")
            tier.append(await _drive(context, stack.http_url, vocabulary, rounds, stack))
            for floor in ready:
                floors.setdefault(floor.name, []).append(await _drive(context, floor.url, vocabulary, rounds, floor))
    rows = _http_table(name, tier, floors)
    return rows, [*findings, *disturbances(name, tier, context.core_count)]


async def _drive(context: Context, url: str, vocabulary: Vocabulary, rounds: int, target: Stack | Floor) -> Burden:
    measured = target.routers if isinstance(target, Stack) else (target.process,)
    beside = target.workers if isinstance(target, Stack) else ()
    endpoint = chat_endpoint(url)
    try:
        jobs = context.jobs(STREAMS * rounds, vocabulary)
        return await burden(endpoint, jobs, Load(concurrency=STREAMS), measured, beside)
    finally:
        await endpoint.close()


def _http_table(name: str, tier: Sequence[Burden], floors: dict[str, list[Burden]]) -> list[Row]:
    paced = name == "paced"
    # Paced, there is one event a token; unpaced, events may merge, and the work is told per token.
    us = [b.us_per_event if paced else b.us_per_token for b in tier]
    merged = sum(b.figures.output_tokens for b in tier) / sum(b.figures.events for b in tier)
    note = f"router's CPU, its share of a core {_median_share(tier):.0%}, {merged:.2f} tokens an event"
    rows = [Row(f"{name}.tier", _PACED if paced else _FAST, "µs CPU", us, None if paced else 8.0, note)]
    for floor, burdens in floors.items():
        floor_us = [b.us_per_event for b in burdens]
        client = f"client {_median_client(burdens):.1f} µs an event"
        rows.append(Row(f"{name}.{floor}", f"  {floor}, ready-made events", "µs CPU", floor_us, None, client))
        goal = 1.0 if paced and floor == "bare uvicorn" else None
        rows.append(ratio_row(f"{name}.ratio.{floor}", f"  tier / {floor}", us, floor_us, goal=goal))
    rows.append(
        Row(
            f"{name}.client",
            "  load client, per event",
            "µs CPU",
            [1e6 * b.usage.cpu_s / b.figures.events for b in tier],
        )
    )
    return rows


def _median_share(burdens: Sequence[Burden]) -> float:
    return sorted(b.share for b in burdens)[len(burdens) // 2]


def _median_client(burdens: Sequence[Burden]) -> float:
    return sorted(1e6 * b.usage.cpu_s / b.figures.events for b in burdens)[len(burdens) // 2]


async def grpc_rows(context: Context) -> Found:
    """`StreamChatCompletion` and `ChatSession`, paced, in turn."""
    calls: list[Burden] = []
    sessions: list[Burden] = []
    async with deployment(StackSettings(context.model, PACED_STEP_MS), context.cores) as stack:
        vocabulary = await words(stack)
        rounds = context.rounds(PACED_STEP_MS)
        generation = Generation(thinking=False)
        for number in range(context.repeats):
            context.say(f"grpc: repetition {number + 1} of {context.repeats}")
            one = GrpcEndpoint(
                make_channel(stack.grpc_address, GrpcConfig()),
                completions=False,
                generation=generation,
                timeout_s=120.0,
            )
            calls.append(await _paced(context, one, vocabulary, rounds, stack))
            many = SessionEndpoint(
                make_channel(stack.grpc_address, GrpcConfig()), generation=generation, timeout_s=120.0
            )
            sessions.append(await _paced(context, many, vocabulary, rounds, stack))
    paced = f"paced {PACED_STEP_MS:g} ms, {STREAMS} chats"
    rows = [
        Row(
            "grpc.stream", f"event, gRPC StreamChatCompletion, {paced}", "µs CPU", [b.us_per_event for b in calls], 40.0
        ),
        Row("grpc.session", f"event, gRPC ChatSession, {paced}", "µs CPU", [b.us_per_event for b in sessions], 8.0),
    ]
    found = disturbances("grpc", [*calls, *sessions], context.core_count)
    return rows, found


async def _paced(context: Context, endpoint: Endpoint, vocabulary: Vocabulary, rounds: int, stack: Stack) -> Burden:
    try:
        jobs = context.jobs(STREAMS * rounds, vocabulary)
        return await burden(endpoint, jobs, Load(concurrency=STREAMS), stack.routers, stack.workers)
    finally:
        await endpoint.close()
