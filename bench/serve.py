"""`bench serve`: load on one endpoint, measured from outside."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import grpc
from rich.console import Console

from qwenserve.bench import calibration
from qwenserve.bench.clients.endpoint import Endpoint, EndpointError, Generation
from qwenserve.bench.clients.grpc import GrpcEndpoint, SessionEndpoint
from qwenserve.bench.clients.http import HttpEndpoint, Target
from qwenserve.bench.datasets.jsonl import read_jobs
from qwenserve.bench.datasets.lengths import Lengths
from qwenserve.bench.datasets.made import Form, Shape, multi_turn_jobs, random_jobs, shared_prefix_jobs
from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.document import Measured
from qwenserve.bench.findings import Intent, examine
from qwenserve.bench.load import Load, Run
from qwenserve.bench.measures import Slo, measure
from qwenserve.bench.progress import live
from qwenserve.bench.record import Record
from qwenserve.bench.samples import Job, repeated_prompts
from qwenserve.runtime.client_channel import router_channel
from qwenserve.runtime.client_tls import ClientTls
from qwenserve.runtime.config import ConfigError

Api = Literal["chat", "completions", "grpc-chat", "grpc-completion", "grpc-session"]
APIS: Sequence[Api] = ("chat", "completions", "grpc-chat", "grpc-completion", "grpc-session")

# A seed of the warm-up's own, so that it leaves nothing of the measured prompts in a cache.
_WARMUP_SEED = 0x5EED
_REPEAT_SEED_STEP = 1009


class Dataset(NamedTuple):
    """What to send. `name` is random, shared-prefix, multi-turn, or the path of a JSONL file."""

    name: str = "random"
    requests: int = 200
    prompt: Lengths = Lengths("fixed", 200)
    output: Lengths = Lengths("fixed", 128)
    prefix: Lengths = Lengths("fixed", 1000)
    groups: int = 4
    turns: int = 4
    seed: int = 0
    token_range: str = ""

    @property
    def in_file(self) -> bool:
        """Whether the samples come from a file."""
        return self.name not in ("random", "shared-prefix", "multi-turn")

    def describe(self) -> str:
        """Returns the dataset in words, for the method."""
        if self.in_file:
            return f"prompts from {Path(self.name).name}"
        lengths = f"{self.prompt} prompt tokens, {self.output} answer tokens"
        if self.name == "shared-prefix":
            return f"shared prefix ({self.groups} groups, {self.prefix} tokens) and {lengths}, seed {self.seed}"
        if self.name == "multi-turn":
            return f"conversations of {self.turns} turns, each {lengths}, seed {self.seed}"
        return f"random prompts, {lengths}, seed {self.seed}"


class Plan(NamedTuple):
    """Everything about a measurement but the server's answer."""

    url: str
    api: Api
    dataset: Dataset
    load: Load
    generation: Generation = Generation()
    slo: Slo | None = None
    warmup: int = 0
    repeat: int = 1
    key: str = ""
    timeout_s: float = 600.0
    # Address of the HTTP shim that tells words and template where the load goes over gRPC; empty: none.
    tokenize_url: str = ""
    # None: plain text, or https with the system's authorities.
    tls: ClientTls | None = None


class Results(NamedTuple):
    """The runs, and how they were made."""

    method: str
    runs: Sequence[Measured]


def form_of(api: Api, dataset: Dataset) -> Form:
    """Returns how prompts must be written for an API."""
    if api in ("completions", "grpc-completion"):
        return "ids"
    return "chat"


async def measure_serving(plan: Plan, console: Console) -> Results:
    """Runs the plan. Raises EndpointError when there is nothing to measure, ValueError for a plan that cannot be."""
    side = _tokenize_target(plan)
    generation = plan.generation
    if not generation.model and side is not None:
        generation = generation._replace(model=await calibration.server_model(side, plan.key))
    plan = plan._replace(generation=generation)
    vocabulary, exact = await find_vocabulary(plan, side)
    runs = []
    async with open_endpoint(plan) as endpoint:
        await _warm_up(plan, endpoint, vocabulary)
        for number in range(plan.repeat):
            dataset = plan.dataset._replace(seed=plan.dataset.seed + number * _REPEAT_SEED_STEP)
            jobs = make_jobs(dataset, plan.api, vocabulary)
            if side is not None and exact and not dataset.in_file:
                jobs = await calibration.expect_template(side, jobs, generation, plan.key)
            runs.append(await _one_run(plan, endpoint, jobs, console, f"run {number + 1} of {plan.repeat}"))
        method = _method(plan, endpoint, exact)
    return Results(method, runs)


async def _one_run(plan: Plan, endpoint: Endpoint, jobs: Sequence[Job], console: Console, title: str) -> Measured:
    run = Run(endpoint, plan.load._replace(seed=plan.dataset.seed))
    with live(console, title, sum(map(len, jobs))) as follow:
        outcome = await run(jobs, follow(run))
    figures = measure(outcome.records, plan.slo)
    intent = Intent(
        open_loop=plan.load.open_loop,
        concurrency=plan.load.concurrency,
        repeated_prompts=repeated_prompts(jobs),
        expects_cache=plan.dataset.name in ("shared-prefix", "multi-turn"),
        exact_lengths=plan.generation.exact_lengths,
    )
    findings = examine(figures, outcome.records, outcome.usage, intent)
    return Measured(figures, outcome.usage, findings, outcome.records)


async def _warm_up(plan: Plan, endpoint: Endpoint, vocabulary: Vocabulary) -> None:
    """Sends requests that are not counted; raises EndpointError when the first of them fails."""
    dataset = plan.dataset._replace(requests=max(1, plan.warmup), seed=plan.dataset.seed ^ _WARMUP_SEED)
    jobs = make_jobs(dataset, plan.api, vocabulary)[: dataset.requests]
    # One always goes first, alone: a server that refuses it would refuse all.
    record = Record(0, asked_tokens=1)
    if not plan.dataset.in_file or plan.warmup:
        await endpoint.send(endpoint.prepare(jobs[0][0]), record)
        if record.error:
            raise EndpointError(f"the first request failed: {record.error}")
    if len(jobs) > 1:
        await Run(endpoint, Load(concurrency=min(8, len(jobs))))(jobs[1:])


@contextlib.asynccontextmanager
async def open_endpoint(plan: Plan) -> AsyncIterator[Endpoint]:
    """The plan's endpoint, closed when the block is left."""
    endpoint: Endpoint
    if plan.api in ("chat", "completions"):
        endpoint = HttpEndpoint(
            Target.parse(plan.url, plan.tls),
            chat=plan.api == "chat",
            generation=plan.generation,
            key=plan.key,
            timeout_s=plan.timeout_s,
        )
    elif plan.api == "grpc-session":
        endpoint = SessionEndpoint(
            await _channel(plan), generation=plan.generation, key=plan.key, timeout_s=plan.timeout_s
        )
    else:
        endpoint = GrpcEndpoint(
            await _channel(plan),
            completions=plan.api == "grpc-completion",
            generation=plan.generation,
            key=plan.key,
            timeout_s=plan.timeout_s,
        )
    try:
        yield endpoint
    finally:
        await asyncio.shield(endpoint.close())


async def _channel(plan: Plan) -> grpc.aio.Channel:
    try:
        return await router_channel(plan.url.rpartition("://")[2], plan.tls)
    except ConfigError as error:
        raise EndpointError(str(error)) from None


def make_jobs(dataset: Dataset, api: Api, vocabulary: Vocabulary) -> list[Job]:
    """Returns the jobs of a dataset. Raises ValueError, OSError."""
    if dataset.in_file:
        default = max(1, round(dataset.output.a))
        return read_jobs(Path(dataset.name), default_output=default, limit=dataset.requests or None)
    shape = Shape(dataset.prompt, dataset.output, form_of(api, dataset), dataset.seed)
    if dataset.name == "shared-prefix":
        return shared_prefix_jobs(dataset.requests, shape, vocabulary, prefix=dataset.prefix, groups=dataset.groups)
    if dataset.name == "multi-turn":
        return multi_turn_jobs(dataset.requests, shape, vocabulary, turns=dataset.turns)
    return random_jobs(dataset.requests, shape, vocabulary)


async def find_vocabulary(plan: Plan, side: Target | None) -> tuple[Vocabulary, bool]:
    """Returns what prompts are drawn from, and whether their lengths are exact."""
    if plan.dataset.in_file:
        return Vocabulary.uncounted(), True
    if plan.dataset.token_range:
        return Vocabulary.from_range(plan.dataset.token_range), True
    if side is not None:
        with contextlib.suppress(EndpointError, KeyError, TypeError):
            return await calibration.server_vocabulary(side, plan.generation.model, plan.key), True
    if form_of(plan.api, plan.dataset) == "ids":
        raise EndpointError("the server has no /tokenize to learn token ids from; give --token-range LEAST:MOST")
    return Vocabulary.uncounted(), False


def _tokenize_target(plan: Plan) -> Target | None:
    if plan.tokenize_url:
        return Target.parse(plan.tokenize_url, plan.tls)
    return Target.parse(plan.url, plan.tls) if plan.api in ("chat", "completions") else None


def _method(plan: Plan, endpoint: Endpoint, exact: bool) -> str:
    parts = [
        endpoint.description,
        plan.dataset.describe(),
        plan.load.describe(),
        f"temperature {plan.generation.temperature:g}" if plan.generation.temperature is not None else "",
        "answers run to their limit (ignore_eos)" if plan.generation.exact_lengths else "answers may end early",
        "" if exact else "prompt lengths are in words: the server has no /tokenize",
        f"{plan.warmup or 1} warm-up requests not counted",
        f"{plan.repeat} runs, medians and ranges" if plan.repeat > 1 else "one run",
        "times from send to read on one clock; TTFT is the first event with content",
    ]
    return "; ".join(part for part in parts if part)


def parameters(plan: Plan) -> dict[str, Any]:
    """Returns the plan as plain values for the document; no key."""
    return {
        "url": plan.url,
        "api": plan.api,
        "dataset": {
            **plan.dataset._asdict(),
            "name": Path(plan.dataset.name).name,
            "prompt": str(plan.dataset.prompt),
            "output": str(plan.dataset.output),
            "prefix": str(plan.dataset.prefix),
        },
        "load": plan.load.describe(),
        "concurrency": plan.load.concurrency,
        "generation": plan.generation._asdict(),
        "slo": None if plan.slo is None else {f: getattr(plan.slo, f) for f in ("ttft_ms", "tpot_ms", "e2e_ms")},
        "warmup": plan.warmup,
        "repeat": plan.repeat,
    }
