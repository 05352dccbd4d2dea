"""The command line of `bench`: groups of options, and the values that they make."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from qwenserve.bench.clients.endpoint import Generation
from qwenserve.bench.datasets.lengths import Lengths
from qwenserve.bench.load import Load
from qwenserve.bench.schedule import Arrivals
from qwenserve.bench.serve import APIS, Dataset, Plan
from qwenserve.runtime.client_tls import add_tls_options, tls_of

_DEFAULT_CONCURRENCY = 16


def add_server(parser: argparse.ArgumentParser) -> None:
    """Which server, and how to call it."""
    group = parser.add_argument_group("server")
    group.add_argument("--url", help="http(s)://HOST:PORT, or HOST:PORT for gRPC (default: this machine's usual ports)")
    group.add_argument("--api", choices=APIS, default="chat", help="how to call it (default: chat)")
    group.add_argument("--model", default="", help="model name (default: the first that the server lists)")
    group.add_argument("--tokenize-url", default="", help="HTTP address with /tokenize, where the load goes over gRPC")
    group.add_argument("--api-key-env", default="", metavar="NAME", help="environment variable with the bearer key")
    group.add_argument("--timeout", type=float, default=600.0, help="seconds for one request")
    group.add_argument("--no-stream", action="store_true", help="whole answers instead of streams (HTTP only)")
    group.add_argument("--temperature", type=float, default=0.0, help="sampling temperature; below 0: the server's own")
    thinking = group.add_mutually_exclusive_group()
    thinking.add_argument("--thinking", action="store_true", default=None, help="ask chats to think")
    thinking.add_argument("--no-thinking", dest="thinking", action="store_false", help="ask chats not to think")
    group.add_argument(
        "--natural-end", action="store_true", help="let answers end by themselves instead of at their limit"
    )
    add_tls_options(parser)


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """What to send."""
    group = parser.add_argument_group("dataset", "lengths in tokens: N, normal:MEAN:DEVIATION or uniform:LEAST:MOST")
    group.add_argument("--dataset", default="random", help="random, shared-prefix, multi-turn, or a JSONL file")
    group.add_argument("--requests", type=int, default=200, help="requests, or conversations (0: the whole file)")
    group.add_argument("--prompt", type=Lengths.parse, default="200", metavar="LENGTH", help="prompt, or each turn")
    group.add_argument("--output", type=Lengths.parse, default="128", metavar="LENGTH", help="answer")
    group.add_argument("--prefix", type=Lengths.parse, default="1000", metavar="LENGTH", help="shared prefix")
    group.add_argument("--groups", type=int, default=4, help="number of shared prefixes")
    group.add_argument("--turns", type=int, default=4, help="turns of a conversation")
    group.add_argument("--token-range", default="", metavar="LEAST:MOST", help="ids to draw prompts from")
    group.add_argument("--seed", type=int, default=0, help="of prompts, lengths and arrivals")
    group.add_argument("--warmup", type=int, default=0, help="requests before the run that are not counted")


def add_load(parser: argparse.ArgumentParser) -> None:
    """How it is offered."""
    group = parser.add_argument_group("load")
    group.add_argument(
        "--concurrency", type=int, help=f"most requests at a time (default: {_DEFAULT_CONCURRENCY} without --rate)"
    )
    group.add_argument("--rate", type=float, default=math.inf, help="requests per second; without it, closed loop")
    group.add_argument("--burstiness", type=float, default=1.0, help="shape of the gaps: 1 Poisson, below 1 bursts")
    group.add_argument("--ramp-to", type=float, metavar="RATE", help="rate at the end of the run")
    group.add_argument("--ramp-shape", choices=("linear", "exponential"), default="linear")
    group.add_argument("--ramp-seconds", type=float, default=0.0, help="closed loop: start the slots over this time")
    group.add_argument("--seconds", type=float, help="send nothing new after this time")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Where results go."""
    group = parser.add_argument_group("results")
    group.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    group.add_argument("--csv", type=Path, metavar="FILE", help="write one row per request")
    group.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the distributions (extra `bench`)")
    group.add_argument("--requests-in-json", action="store_true", help="one entry per request in the JSON, too")
    group.add_argument("--strict", action="store_true", help="exit with 1 when anything makes the figures doubtful")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Which engine; configured as a worker is."""
    group = parser.add_argument_group("engine")
    group.add_argument("--config", type=Path, help="configuration file, as for a worker")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one setting")


def dataset_from(arguments: argparse.Namespace) -> Dataset:
    """Returns the dataset that was asked for. Raises ValueError."""
    if arguments.requests < 1 and arguments.dataset in ("random", "shared-prefix", "multi-turn"):
        raise ValueError(f"--requests {arguments.requests}; it must be 1 or more")
    return Dataset(
        name=arguments.dataset,
        requests=arguments.requests,
        prompt=arguments.prompt,
        output=arguments.output,
        prefix=arguments.prefix,
        groups=arguments.groups,
        turns=arguments.turns,
        seed=arguments.seed,
        token_range=arguments.token_range,
    )


def load_from(arguments: argparse.Namespace) -> Load:
    """Returns the load that was asked for. Raises ValueError."""
    if arguments.concurrency is not None and arguments.concurrency < 1:
        raise ValueError(f"--concurrency {arguments.concurrency}; it must be 1 or more")
    concurrency = arguments.concurrency
    if concurrency is None and math.isinf(arguments.rate):
        concurrency = _DEFAULT_CONCURRENCY
    arrivals = Arrivals(arguments.rate, arguments.burstiness, arguments.ramp_to, arguments.ramp_shape)
    return Load(arrivals, concurrency, arguments.ramp_seconds, arguments.seconds, arguments.seed)


def plan_from(arguments: argparse.Namespace, load: Load | None) -> Plan:
    """Returns the plan that was asked for. Raises ValueError."""
    generation = Generation(
        model=arguments.model,
        exact_lengths=not arguments.natural_end,
        temperature=arguments.temperature if arguments.temperature >= 0 else None,
        thinking=arguments.thinking,
        stream=not arguments.no_stream,
    )
    default = "127.0.0.1:50051" if arguments.api.startswith("grpc") else "http://127.0.0.1:8000"
    return Plan(
        url=arguments.url or default,
        api=arguments.api,
        dataset=dataset_from(arguments),
        load=load or Load(concurrency=1),
        generation=generation,
        warmup=arguments.warmup,
        key=_key(arguments.api_key_env),
        timeout_s=arguments.timeout,
        tokenize_url=arguments.tokenize_url,
        tls=tls_of(arguments, arguments.url or ""),
    )


def _key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "")
    if not key:
        raise ValueError(f"--api-key-env {variable}: this variable is not set")
    return key
