"""`bench reuse`: what a fleet reuses of prompts and answers that come again, and how evenly it spreads the rest.

Workloads: `chats` (conversations over a few shared system prompts), `repeats` (questions that come again, some of them
deterministic) and `mixed` (nothing comes again: the spread alone).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from rich.console import Console
from rich.table import Table

from qwenserve.bench.document import preamble, write_json
from qwenserve.bench.reuse.figures import Reuse, figures_of
from qwenserve.bench.reuse.fleet import FleetSettings, fleet, offer
from qwenserve.bench.reuse.workloads import Turns, conversations, mixed, repeated
from qwenserve.bench.tier.processes import ProcessError
from qwenserve.runtime.process import PACKAGE_ROOT

_POLICIES = ("prefix", "least_loaded", "power_of_two", "round_robin")


class Case(NamedTuple):
    """One row: how routers choose, and what else they are told."""

    name: str
    policy: str
    extra: Mapping[str, object] = {}


def add_reuse_command(
    commands: Any,
    wrap: Callable[
        [Callable[[argparse.Namespace, Console], Coroutine[Any, Any, int]]], Callable[[argparse.Namespace], int]
    ],
) -> None:
    """Adds `reuse` to the commands of `bench`; `wrap` makes an exit code of a coroutine."""
    parser = commands.add_parser("reuse", help="what a fleet reuses of prompts and answers that come again")
    parser.add_argument("workload", choices=("chats", "repeats", "mixed"))
    parser.add_argument("--routers", type=int, default=2, help="router processes (default: 2)")
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default: 4)")
    parser.add_argument("--engine", choices=("simulated", "llamacpp"), default="simulated")
    parser.add_argument("--requests", type=int, default=0, help="conversations or questions (default: by workload)")
    parser.add_argument("--turns", type=int, default=5, help="turns of a conversation (default: 5)")
    parser.add_argument("--concurrency", type=int, default=24, help="conversations at a time (default: 24)")
    parser.add_argument("--kv-blocks", type=int, default=8192, help="KV blocks of a simulated worker (default: 8192)")
    parser.add_argument("--policy", choices=_POLICIES, help="only the rows of this policy")
    parser.add_argument("--store", default="", metavar="URL", help="store that the routers keep answers in")
    parser.add_argument("--seed", type=int, default=0)
    default = str(PACKAGE_ROOT / "models" / "qwen3-tiny")
    parser.add_argument("--model", default=default, help="directory with tokenizer, and weights for llamacpp")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.set_defaults(func=wrap(_run))


def jobs_of(arguments: argparse.Namespace) -> list[Turns]:
    """Returns what is sent."""
    count, seed = arguments.requests, arguments.seed
    if arguments.workload == "mixed":
        return mixed(count or 600, seed=seed)
    if arguments.workload == "chats":
        return conversations(
            count or 200,
            systems=20,
            system_tokens=400,
            turns=arguments.turns,
            user_tokens=60,
            answer_tokens=48,
            seed=seed,
        )
    return repeated(
        count or 3000,
        prompts=1000,
        deterministic=0.3,
        systems=20,
        system_tokens=200,
        least_tokens=50,
        most_tokens=400,
        answer_tokens=64,
        seed=seed,
    )


def cases_of(workload: str, store: str) -> Sequence[Case]:
    """Returns the rows of a workload."""
    if workload == "mixed":
        return [Case(policy, policy) for policy in _POLICIES]
    if workload == "chats":
        return [Case("prefix", "prefix"), Case("round robin", "round_robin")]
    keep: dict[str, object] = {"cache.mode": "readwrite"}
    if store:
        keep["store.url"] = store
    return [
        Case("prefix, kept answers", "prefix", keep),
        Case("prefix", "prefix"),
        Case("round robin", "round_robin"),
    ]


async def _run(arguments: argparse.Namespace, console: Console) -> int:
    if min(arguments.routers, arguments.workers, arguments.concurrency) < 1 or arguments.requests < 0:
        raise ValueError("--routers, --workers and --concurrency must be 1 or more")
    jobs = jobs_of(arguments)
    rows: list[tuple[Case, Reuse]] = []
    for case in cases_of(arguments.workload, arguments.store):
        if arguments.policy not in (None, case.policy):
            continue
        try:
            rows.append((case, await _measure(case, arguments, jobs)))
        except (ProcessError, grpc.aio.AioRpcError) as error:
            raise OSError(f"{case.name}: {error}") from error
        _show(console, rows)
    if arguments.json:
        given = {key: value for key, value in vars(arguments).items() if isinstance(value, (str, int, float))}
        document = preamble("reuse", __doc__ or "", given)
        document["rows"] = [{"case": case.name, **reuse._asdict()} for case, reuse in rows]
        write_json(arguments.json, document)
    return 0


async def _measure(case: Case, arguments: argparse.Namespace, jobs: Sequence[Turns]) -> Reuse:
    settings = FleetSettings(
        model=str(Path(arguments.model).expanduser().resolve()),
        routers=arguments.routers,
        workers=arguments.workers,
        policy=case.policy,
        engine=arguments.engine,
        kv_blocks=arguments.kv_blocks,
        extra=case.extra,
    )
    async with fleet(settings) as target:
        before = await target.states()
        answers = await offer(target, jobs, arguments.concurrency)
        after = await target.states()
        expected = await target.counted("qwenserve_prefix_tokens_total")
        return figures_of(answers, await target.block_tokens(), before, after, expected)


def _show(console: Console, rows: Sequence[tuple[Case, Reuse]]) -> None:
    table = Table(box=None, pad_edge=False)
    names = ["", "requests", "prompt tokens", "answer tokens", "could be cached", "cached", "of it"]
    names += ["kept answers", "joined", "prefixes", "saved in all", "busy skew", "work skew", "expected, of it found"]
    for name in names:
        table.add_column(name, justify="right" if name else "left")
    for case, reuse in rows:
        expected, missing = reuse.expected.get("expected", 0.0), reuse.expected.get("missing", 0.0)
        table.add_row(
            case.name,
            f"{reuse.requests}",
            f"{reuse.prompt_tokens}",
            f"{reuse.answer_tokens}",
            f"{reuse.reusable}",
            f"{reuse.found}",
            f"{reuse.share:.1%}",
            f"{reuse.saved_by(reuse.kept):.1%}",
            f"{reuse.saved_by(reuse.joined):.1%}",
            f"{reuse.saved_by(reuse.found):.1%}",
            f"{reuse.saved:.1%}",
            f"{reuse.busy_skew:.2f}",
            f"{reuse.work_skew:.2f}",
            f"{expected:.0f}, {1 - missing / expected:.1%}" if expected else "",
        )
    console.print(table, soft_wrap=True)
