"""`bench tier`: the CPU of the front tier, row by row, with its goals and its floors beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from qwenserve.bench import report
from qwenserve.bench.clients.endpoint import EndpointError
from qwenserve.bench.document import preamble, write_json
from qwenserve.bench.findings import Finding, slow_interpreter
from qwenserve.bench.meter import describe_machine
from qwenserve.bench.tier import (
    apart,
    encrypted,
    kept,
    latency,
    memory,
    peer,
    route,
    scaling,
    servicer,
    streamed,
    table,
    tokenizer,
    whole,
    wrk,
)
from qwenserve.bench.tier.burden import TierError
from qwenserve.bench.tier.context import Context
from qwenserve.bench.tier.cores import Cores, name_cores
from qwenserve.bench.tier.processes import ProcessError, pinned
from qwenserve.runtime.process import PACKAGE_ROOT

_Rows = Callable[[Context], Awaitable[tuple[list[table.Row], list[Finding]]]]

ROWS: Mapping[str, _Rows] = {
    "paced": lambda context: streamed.http_rows(context, streamed.PACED_STEP_MS),
    "fast": lambda context: streamed.http_rows(context, 0.0),
    "wrk": wrk.wrk_rows,
    "request": whole.request_rows,
    "long": whole.long_rows,
    "kept": kept.kept_rows,
    "route": route.route_rows,
    "grpc": streamed.grpc_rows,
    "latency": latency.latency_rows,
    "worker": servicer.worker_rows,
    "scaling": scaling.scaling_rows,
    "tokenizer": tokenizer.tokenizer_rows,
    "memory": memory.memory_rows,
    "peer": peer.peer_rows,
    "shim": apart.shim_rows,
    "tls": encrypted.tls_rows,
}

_METHOD = (
    "CPU time of the router process(es) alone (kernel's process clock), all threads; router on {routers}, simulated "
    "worker on {workers}, load client on {client}{apart}, unless a row says otherwise; loopback, HTTP/1.1 with kept "
    "connections; 128 streams in a closed loop, 200-token prompts never sent before, 128 answer tokens, prefill of no "
    "time; what is compared is measured in turn; medians and ranges over {repeats} repetitions; the CPU of a request's "
    "beginning and end is part of its tokens'"
)


def add_tier_command(
    commands: Any,
    wrap: Callable[
        [Callable[[argparse.Namespace, Console], Coroutine[Any, Any, int]]], Callable[[argparse.Namespace], int]
    ],
) -> None:
    """Adds `tier` to the commands of `bench`; `wrap` makes an exit code of a coroutine."""
    parser = commands.add_parser("tier", help="CPU of the front tier, with goals and floors beside it")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"which rows (default: all): {', '.join(ROWS)}")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one repetition, roughly (default: 5)")
    default = str(PACKAGE_ROOT / "models" / "qwen3-tiny")
    parser.add_argument("--model", default=default, help="directory with the tokenizer of all rows")
    parser.add_argument(
        "--memory-model", default="", help="directory with the tokenizer of the rows memory and tokenizer"
    )
    parser.add_argument(
        "--memory-requests", type=int, default=100_000, help="requests of the memory rows (default: 100000)"
    )
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="FILE", help="interpreter with smg and smg-grpc-proto"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 for a doubtful figure or a missed goal")
    parser.set_defaults(func=wrap(_run))


async def _run(arguments: argparse.Namespace, console: Console) -> int:
    names = [name for name in arguments.rows.split(",") if name]
    unknown = [name for name in names if name not in ROWS]
    if unknown or not names or arguments.repeat < 1:
        raise ValueError(f"--rows {arguments.rows} --repeat {arguments.repeat}: rows are {', '.join(ROWS)}; repeat ≥ 1")
    cores = Cores.of_this_machine()
    context = Context(
        console=console,
        cores=cores,
        model=str(Path(arguments.model).expanduser().resolve()),
        repeats=arguments.repeat,
        seconds=arguments.seconds,
        memory_requests=arguments.memory_requests,
        peer_python=arguments.peer_python,
        memory_model=arguments.memory_model and str(Path(arguments.memory_model).expanduser().resolve()),
    )
    rows: list[table.Row] = []
    slow = slow_interpreter(describe_machine())
    findings: list[Finding] = [] if slow is None else [slow]
    with pinned(cores.client) as possible:
        if not (possible and cores.apart):
            findings.append(
                Finding("SHARED_CORE", "router, worker and client share cores: all figures are higher for it.", {})
            )
        for name in names:
            try:
                new_rows, new_findings = await ROWS[name](context)
            except (ProcessError, TierError, EndpointError) as error:
                new_rows, new_findings = [], [Finding("ROW_FAILED", f"{name}: {error}", {"row": name})]
            rows += new_rows
            findings += new_findings
            if arguments.json:
                # What is measured stays, whatever happens to the rows after it.
                write_json(arguments.json, make_document(rows, findings, arguments, cores))
    document = make_document(rows, findings, arguments, cores)
    report.show_method(console, document)
    table.show(console, rows)
    console.print()
    report.show_findings(console, findings)
    missed = any(row.met is False for row in rows)
    failed = any(finding.code == "ROW_FAILED" for finding in findings)
    return int(failed or (arguments.strict and (missed or bool(findings))))


def make_document(
    rows: list[table.Row], findings: list[Finding], arguments: argparse.Namespace, cores: Cores
) -> dict[str, Any]:
    """Returns the JSON document of a run."""
    method = _METHOD.format(
        routers=name_cores(cores.measured),
        workers=name_cores(cores.workers[0]),
        client=name_cores(cores.client),
        apart="" if cores.apart else " (shared)",
        repeats=arguments.repeat,
    )
    parameters = {
        "rows": arguments.rows,
        "repeat": arguments.repeat,
        "seconds": arguments.seconds,
        "model": Path(arguments.model).name,
        "memory_requests": arguments.memory_requests,
    }
    return {
        **preamble("tier", method, parameters),
        "rows": [row.as_json() for row in rows],
        "findings": [finding.as_json() for finding in findings],
    }
