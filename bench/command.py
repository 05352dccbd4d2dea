"""The command `qwenserve bench`, also `python -m qwenserve.bench`: arguments in, exit code out.

Exit codes: 0 measured; 1 measured, but `--strict` found something doubtful, or all requests failed; 2 could not run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from qwenserve.bench import compare as comparison
from qwenserve.bench import plots, report
from qwenserve.bench.arguments import (
    add_dataset,
    add_engine,
    add_load,
    add_output,
    add_server,
    dataset_from,
    load_from,
    plan_from,
)
from qwenserve.bench.clients.endpoint import EndpointError
from qwenserve.bench.datasets.jsonl import write_jobs
from qwenserve.bench.document import make_document, read_document, write_csv, write_json
from qwenserve.bench.findings import Finding
from qwenserve.bench.measures import Slo
from qwenserve.bench.memory import as_csv, as_svg, watch
from qwenserve.bench.reuse.command import add_reuse_command
from qwenserve.bench.reuse.news_command import add_news_command
from qwenserve.bench.serve import Results, find_vocabulary, make_jobs, measure_serving, parameters
from qwenserve.bench.sweep import sweep
from qwenserve.bench.tier.command import add_tier_command
from qwenserve.runtime import lifecycle
from qwenserve.runtime.flags import FlagParser

# What a user can put right; anything else is a defect and shows its traceback.
_USER_ERRORS = (EndpointError, ValueError, OSError, plots.NoPlots)


def _add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands of `bench` to a parser."""
    parser.set_defaults(func=_show_help(parser))
    commands = parser.add_subparsers(metavar="COMMAND")
    serve = commands.add_parser("serve", help="load on an OpenAI HTTP or Qwenserve gRPC endpoint")
    for add in (add_server, add_dataset, add_load, add_output):
        add(serve)
    serve.add_argument("--goodput", nargs="+", default=[], metavar="NAME:MS", help="SLO: ttft:MS tpot:MS e2e:MS")
    serve.add_argument("--repeat", type=int, default=1, help="runs, each with new prompts; medians are reported")
    serve.set_defaults(func=_command(_serve))

    rising = commands.add_parser("sweep", help="raise concurrency until throughput stops rising; name the knee")
    for add in (add_server, add_dataset, add_output):
        add(rising)
    rising.add_argument("--from", dest="first", type=int, default=1, help="first concurrency")
    rising.add_argument("--to", dest="most", type=int, default=512, help="highest concurrency")
    rising.add_argument("--factor", type=float, default=2.0, help="factor from one concurrency to the next")
    rising.set_defaults(func=_command(_sweep))

    direct = commands.add_parser("throughput", help="an engine directly, without a server")
    for add in (add_engine, add_dataset, add_output):
        add(direct)
    direct.add_argument("--repeat", type=int, default=1, help="runs, each with new prompts")
    direct.set_defaults(func=_command(_throughput))

    pair = commands.add_parser("compare", help="two results side by side")
    pair.add_argument("a", type=Path, metavar="A.json")
    pair.add_argument("b", type=Path, metavar="B.json")
    pair.add_argument("--strict", action="store_true", help="exit with 1 when the comparison is doubtful")
    pair.set_defaults(func=_command(_compare))

    data = commands.add_parser("dataset", help="write a dataset as JSONL")
    for add in (add_server, add_dataset):
        add(data)
    data.add_argument("file", type=Path, metavar="FILE.jsonl")
    data.set_defaults(func=_command(_dataset))

    memory = commands.add_parser("memory", help="memory of processes over time, as a plot; beside a load")
    memory.add_argument("processes", nargs="+", type=_named_process, metavar="NAME=PID")
    memory.add_argument("--seconds", type=float, default=600.0, help="how long (default: 600, or until all have ended)")
    memory.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="between two looks (default: 2)")
    memory.add_argument("--title", default="Resident memory", help="above the plot")
    memory.add_argument("--svg", type=Path, metavar="FILE.svg", help="where to draw it")
    memory.add_argument("--csv", type=Path, metavar="FILE.csv", help="where to write the figures")
    memory.set_defaults(func=_command(_memory))
    add_tier_command(commands, _command)
    add_reuse_command(commands, _command)
    add_news_command(commands, _command)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, runs, returns the exit code."""
    parser = FlagParser(prog="qwenserve bench", description=__doc__)
    _add_commands(parser)
    arguments = parser.parse_args(argv)
    return int(arguments.func(arguments))


def _show_help(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    def show(arguments: argparse.Namespace) -> int:
        parser.print_help()
        return 2

    return show


def _named_process(text: str) -> tuple[str, int]:
    name, _, pid = text.rpartition("=")
    if not name or not pid.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PID")
    return name, int(pid)


async def _memory(arguments: argparse.Namespace, console: Console) -> int:
    looks = await watch(dict(arguments.processes), arguments.seconds, arguments.every)
    if arguments.csv is not None:
        arguments.csv.write_text(as_csv(looks))
    if arguments.svg is not None:
        arguments.svg.write_text(as_svg(looks, arguments.title))
    table = Table("process", "at first, MB", "most, MB", "at last, MB")
    for name, _ in arguments.processes:
        known = [value for look in looks if (value := look.megabytes[name]) is not None]
        if not known:
            raise ValueError(f"{name}: there is no such process")
        table.add_row(name, *(f"{value:.0f}" for value in (known[0], max(known), known[-1])))
    console.print(table)
    return 0


def _command(
    body: Callable[[argparse.Namespace, Console], Coroutine[Any, Any, int]],
) -> Callable[[argparse.Namespace], int]:
    """Returns the function that argparse's caller runs: an event loop around `body`, errors as one line."""

    def run(arguments: argparse.Namespace) -> int:
        try:
            return lifecycle.run(body(arguments, _console()))
        except _USER_ERRORS as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("bench: interrupted", file=sys.stderr)
            return 130

    return run


def _console() -> Console:
    # In a file or a pipe nothing tells a width, and 80 columns break tables.
    return Console() if sys.stdout.isatty() else Console(width=160)


async def _serve(arguments: argparse.Namespace, console: Console) -> int:
    slo = Slo.parse(arguments.goodput) if arguments.goodput else None
    plan = plan_from(arguments, load_from(arguments))._replace(slo=slo, repeat=_at_least_one(arguments.repeat))
    _check_output(arguments)
    results = await measure_serving(plan, console)
    return _finish(arguments, console, make_results("serve", results, parameters(plan), arguments), results)


def make_results(kind: str, results: Results, given: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the document of a command's runs."""
    return make_document(kind, results.method, given, results.runs, with_requests=arguments.requests_in_json)


def _finish(arguments: argparse.Namespace, console: Console, document: dict[str, Any], results: Results) -> int:
    report.show_method(console, document)
    for run in results.runs:
        report.show_run(console, run)
    if len(results.runs) > 1:
        report.show_summary(console, document["summary"], len(results.runs))
    _write(arguments, document, results)
    if arguments.plot:
        plots.plot_latencies(arguments.plot, results.runs, results.method)
    failed = all(not run.figures.succeeded for run in results.runs)
    return conclude(console, document, strict=arguments.strict, failed=failed)


def conclude(console: Console, document: dict[str, Any], *, strict: bool, failed: bool = False) -> int:
    """Prints the findings of a document; returns the exit code."""
    findings = [Finding(one["code"], one["text"], one["values"]) for one in document["findings"]]
    report.show_findings(console, findings)
    if findings and strict:
        console.print(f"[bold red]error[/] {len(findings)} findings, and --strict was given", highlight=False)
    return 1 if failed or (strict and findings) else 0


def _write(arguments: argparse.Namespace, document: dict[str, Any], results: Results) -> None:
    if arguments.json:
        write_json(arguments.json, document)
    if arguments.csv:
        write_csv(arguments.csv, results.runs)


def _check_output(arguments: argparse.Namespace) -> None:
    """Finds out before the run what would fail after it."""
    if arguments.plot:
        plots.check()
    for file in (arguments.json, arguments.csv, arguments.plot):
        if file is not None and not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
            raise ValueError(f"{file}: cannot write there")


async def _sweep(arguments: argparse.Namespace, console: Console) -> int:
    plan = plan_from(arguments, None)
    _check_output(arguments)
    found = await sweep(plan, console, first=arguments.first, most=arguments.most, factor=arguments.factor)
    if not found.points:
        raise ValueError(f"no concurrency from {arguments.first} to {arguments.most}")
    runs = [run for results in found.results for run in results.runs]
    method = f"{found.results[0].method}; one run a concurrency; the knee is where throughput / E2E p50 is greatest"
    document = make_document("sweep", method, parameters(plan), runs, with_requests=arguments.requests_in_json)
    document["points"] = [at._asdict() for at in found.points]
    document["knee"] = None if found.knee is None else found.points[found.knee].concurrency
    report.show_method(console, document)
    best = max(at.output_tokens_per_s for at in found.points)
    if found.knee is not None:
        at = found.points[found.knee]
        console.print(
            f"[bold]Knee[/] at concurrency {at.concurrency}: {at.output_tokens_per_s:.1f} of at most {best:.1f} tok/s, "
            f"E2E p50 {at.e2e_p50_ms:.1f} ms\n",
            highlight=False,
        )
    _write(arguments, document, Results(method, runs))
    if arguments.plot:
        plots.plot_sweep(arguments.plot, document["points"], found.knee, method)
    return conclude(console, document, strict=arguments.strict, failed=not best)


async def _throughput(arguments: argparse.Namespace, console: Console) -> int:
    from qwenserve.bench.throughput import configured_engine, measure_engine
    from qwenserve.runtime.config import ConfigError, load_config
    from qwenserve.worker.engine_choice import engine_settings
    from qwenserve.worker.engine_interface import EngineError

    _check_output(arguments)
    dataset = dataset_from(arguments)
    try:
        config = load_config(
            arguments.config,
            overrides=dict(item.partition("=")[::2] for item in arguments.set),
            engines=engine_settings(),
        ).config
        build = configured_engine(config)
        results = await measure_engine(build, dataset, repeat=_at_least_one(arguments.repeat), warmup=arguments.warmup)
    except (ConfigError, EngineError) as error:
        raise ValueError(str(error)) from None
    given = {"engine": config.worker.engine, "model": config.model_name, "dataset": dataset.describe()}
    return _finish(arguments, console, make_results("throughput", results, given, arguments), results)


async def _compare(arguments: argparse.Namespace, console: Console) -> int:
    a, b = read_document(arguments.a), read_document(arguments.b)
    for name, document in (("A", a), ("B", b)):
        console.print(f"[bold]{name}[/] {document['method']}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("", "A", "B", "change", ""):
        table.add_column(column, justify="left" if not column else "right")
    words = {True: "better", False: "worse", None: "within the ranges"}
    for row in comparison.compare(a, b):
        cells = (f"{row.name} ({row.unit})", f"{row.a:.2f}", f"{row.b:.2f}", f"{row.change:+.1%}", words[row.better])
        table.add_row(*cells)
    console.print(table)
    findings = [finding.as_json() for finding in comparison.doubts(a, b)]
    return conclude(console, {"findings": findings}, strict=arguments.strict)


async def _dataset(arguments: argparse.Namespace, console: Console) -> int:
    plan = plan_from(arguments, None)
    offline = not (arguments.url or arguments.tokenize_url)
    vocabulary, exact = await find_vocabulary(plan, None) if offline else await find_vocabulary(*_with_side(plan))
    jobs = make_jobs(plan.dataset, plan.api, vocabulary)
    count = await asyncio.to_thread(write_jobs, arguments.file, jobs)
    console.print(f"{count} lines in {arguments.file}: {plan.dataset.describe()}", highlight=False)
    if not exact:
        console.print("lengths are in words; with --url of a server with /tokenize they are exact", highlight=False)
    return 0


def _with_side(plan: Any) -> Any:
    from qwenserve.bench.clients.http import Target

    return plan, Target.parse(plan.tokenize_url or plan.url, plan.tls)


def _at_least_one(number: int) -> int:
    if number < 1:
        raise ValueError(f"--repeat {number}; it must be 1 or more")
    return number
