"""Rows about smg, a Rust gateway, in turn with our tier: same client, same prompts, same pace.

smg needs workers of its own kind; `bench.tier.smg_worker` is one, with made-up tokens. Both run with an interpreter
that has `smg` and `smg-grpc-proto`: this one, or the one that `--peer-python` names. Without it the rows are left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from typing import NamedTuple

from qwenserve.bench.clients.endpoint import EndpointError, Generation
from qwenserve.bench.clients.http import HttpEndpoint, Target, call_json
from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.findings import Finding
from qwenserve.bench.load import Load
from qwenserve.bench.tier.burden import Burden, burden, disturbances
from qwenserve.bench.tier.context import STREAMS, Context, chat_endpoint, words
from qwenserve.bench.tier.processes import Process, ProcessError, free_ports, running
from qwenserve.bench.tier.stack import Stack, StackSettings, deployment
from qwenserve.bench.tier.table import Row, ratio_row

_START_TIMEOUT_S = 90
_PACED_STEP_MS = 10.0
_REQUESTS_PER_S = 400


class Smg(NamedTuple):
    """A running smg with its worker, and the model's name in requests."""

    gateway: Process
    worker: Process
    url: str
    model: str


@contextlib.asynccontextmanager
async def smg_gateway(context: Context, step_ms: float) -> AsyncIterator[Smg]:
    """Runs smg and a worker for it. Raises ProcessError."""
    worker_port, port, metrics_port = free_ports(3)
    worker_arguments = ["--port", str(worker_port), "--model", "peer", "--step-ms", f"{step_ms:g}"]
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"grpc://127.0.0.1:{worker_port}"]
    arguments += ["--model-path", context.model, "--prometheus-port", str(metrics_port), "--log-level", "warn"]
    python = context.peer_python
    async with (
        running(
            "smg worker", "qwenserve.bench.tier.smg_worker", worker_arguments, context.cores.workers[0], python=python
        ) as worker,
        running("smg", "smg.launch_router", arguments, context.cores.measured, python=python) as gateway,
    ):
        await worker.wait_for_port(worker_port, _START_TIMEOUT_S)
        await gateway.wait_for_port(port, _START_TIMEOUT_S)
        url = f"http://127.0.0.1:{port}"
        yield Smg(gateway, worker, url, await _model(url))


async def _model(url: str) -> str:
    """Waits until the gateway has found its worker; returns the model's name. Raises ProcessError."""
    for _ in range(_START_TIMEOUT_S * 2):
        with contextlib.suppress(EndpointError):
            listed = await call_json(Target.parse(url), "GET", "/v1/models")
            if listed.get("data"):
                return str(listed["data"][0]["id"])
        await asyncio.sleep(0.5)
    raise ProcessError("smg did not find its worker")


def installed(python: str) -> bool:
    """Whether an interpreter has smg and its protocol."""
    check = subprocess.run([python, "-c", "import smg, smg_grpc_proto"], capture_output=True, timeout=60, check=False)
    return check.returncode == 0


async def peer_rows(context: Context) -> tuple[list[Row], list[Finding]]:
    """Streams, paced and unpaced, and whole requests: our tier and smg in turn."""
    if not await asyncio.to_thread(installed, context.peer_python):
        text = "smg is not installed (with smg-grpc-proto; see --peer-python): its rows were left out."
        return [], [Finding("PEER_LEFT_OUT", text, {"peer": "smg"})]
    rows: list[Row] = []
    findings: list[Finding] = []
    for name, step_ms in (("paced", _PACED_STEP_MS), ("fast", 0.0)):
        ours: list[Burden] = []
        theirs: list[Burden] = []
        async with (
            deployment(StackSettings(context.model, step_ms), context.cores) as stack,
            smg_gateway(context, step_ms) as smg,
        ):
            vocabulary = await words(stack)
            rounds = context.rounds(step_ms) if step_ms else max(1, round(context.seconds))
            await _smg(context, smg, vocabulary, STREAMS)
            for number in range(context.repeats):
                context.say(f"peer, {name}: repetition {number + 1} of {context.repeats}")
                ours.append(await _tier(context, stack, vocabulary, STREAMS * rounds))
                theirs.append(await _smg(context, smg, vocabulary, STREAMS * rounds))
            if not step_ms:
                rows += await _requests(context, stack, smg, vocabulary)
        rows += _stream_rows(name, ours, theirs)
        findings += disturbances(f"peer {name}", [*ours, *theirs], context.core_count)
    return rows, findings


def _stream_rows(name: str, ours: list[Burden], theirs: list[Burden]) -> list[Row]:
    tier, peer = [b.us_per_token for b in ours], [b.us_per_token for b in theirs]
    pace = f"paced {_PACED_STEP_MS:g} ms" if name == "paced" else "engine as fast as it can"
    return [
        Row(f"peer.{name}.tier", f"streamed token, {pace}, {STREAMS} streams: this tier", "µs CPU", tier),
        Row(f"peer.{name}.smg", "  smg", "µs CPU", peer, None, "its worker sends a gRPC message a token"),
        ratio_row(f"peer.{name}.ratio", "  tier / smg", tier, peer, goal=0.5 if name == "paced" else None),
    ]


async def _requests(context: Context, stack: Stack, smg: Smg, vocabulary: Vocabulary) -> list[Row]:
    ours: list[float] = []
    theirs: list[float] = []
    count = max(200, round(_REQUESTS_PER_S * context.seconds))
    for _ in range(context.repeats):
        ours.append((await _tier(context, stack, vocabulary, count, output=1)).ms_per_request)
        theirs.append((await _smg(context, smg, vocabulary, count, output=1)).ms_per_request)
    return [
        Row("peer.request.tier", "request, 200-token prompt, 1 answer token: this tier", "ms CPU", ours),
        Row("peer.request.smg", "  smg", "ms CPU", theirs),
        ratio_row("peer.request.ratio", "  tier / smg", ours, theirs, goal=None),
    ]


async def _tier(context: Context, stack: Stack, vocabulary: Vocabulary, count: int, *, output: int = 128) -> Burden:
    endpoint = chat_endpoint(stack.http_url)
    try:
        jobs = context.jobs(count, vocabulary, output=output)
        return await burden(endpoint, jobs, _load(output), stack.routers, stack.workers)
    finally:
        await endpoint.close()


async def _smg(context: Context, smg: Smg, vocabulary: Vocabulary, count: int, *, output: int = 128) -> Burden:
    generation = Generation(model=smg.model, thinking=False)
    endpoint = HttpEndpoint(Target.parse(smg.url), chat=True, generation=generation, timeout_s=120.0)
    try:
        jobs = context.jobs(count, vocabulary, output=output)
        return await burden(endpoint, jobs, _load(output), (smg.gateway,), (smg.worker,))
    finally:
        await endpoint.close()


def _load(output: int) -> Load:
    return Load(concurrency=STREAMS if output > 1 else 16)
