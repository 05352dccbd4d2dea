"""`bench cache-news`: what it costs that routers know what workers have cached, and how soon they know it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from qwenserve.bench.document import preamble, write_json
from qwenserve.bench.reuse.memory import memory_of
from qwenserve.bench.reuse.news import Cost, Fleet, over_sessions, simulated, through_redis

# Routers and workers: the first is real, the others are worked out from one of each.
_REAL = (4, 4)
_SIMULATED = ((16, 64), (100, 1000))


def add_news_command(
    commands: Any,
    wrap: Callable[
        [Callable[[argparse.Namespace, Console], Coroutine[Any, Any, int]]], Callable[[argparse.Namespace], int]
    ],
) -> None:
    """Adds `cache-news` to the commands of `bench`; `wrap` makes an exit code of a coroutine."""
    parser = commands.add_parser("cache-news", help="what it costs to tell routers what workers have cached")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each measurement (default: 8)")
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second for each worker (default: 4)")
    parser.add_argument("--blocks", type=int, default=20, help="blocks that come with a request, and go (default: 20)")
    parser.add_argument("--cached", type=int, default=8192, help="blocks in each worker's cache (default: 8192)")
    parser.add_argument("--redis", default="", metavar="URL", help="also through this Redis server (keys bench:news:*)")
    parser.add_argument(
        "--memory-blocks", type=int, default=200_000, help="blocks to measure memory with (default: 200000; 0: none)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.set_defaults(func=wrap(_run))


async def _run(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.rate <= 0 or arguments.seconds <= 0 or min(arguments.blocks, arguments.cached) < 1:
        raise ValueError("--rate, --seconds, --blocks and --cached must be positive")
    memory = memory_of(arguments.memory_blocks) if arguments.memory_blocks else None
    given = (arguments.rate, arguments.blocks, arguments.cached)
    rows: list[tuple[str, Cost]] = []
    real = Fleet(*_REAL, *given)

    def add(fleet: Fleet, how: str, cost: Cost) -> None:
        rows.append((f"{fleet.routers} × {fleet.workers}, {how}", cost))
        _show(console, rows[-1:])

    sessions = await over_sessions(real, arguments.seconds)
    add(real, "sessions, real", sessions)
    if arguments.redis:
        add(real, "Redis, real", await through_redis(real, arguments.seconds, arguments.redis))
    for size in _SIMULATED:
        fleet = Fleet(*size, *given)
        add(fleet, "sessions, worked out", simulated(fleet, sessions.message_us))
        if arguments.redis:
            one = fleet._replace(routers=1)
            add(one, "Redis, real", await through_redis(one, arguments.seconds, arguments.redis))
    _show(console, rows)
    if memory is not None:
        console.print(
            f"\n{memory.blocks:,} blocks: router {memory.router_mib:.0f} MiB, at most "
            f"{memory.router_soak_mib:.0f} while five times as many passed; worker {memory.worker_mib:.0f} MiB, at "
            f"most {memory.worker_soak_mib:.0f}; the store none",
            highlight=False,
        )
    if arguments.json:
        values = {key: value for key, value in vars(arguments).items() if isinstance(value, (str, int, float))}
        document = preamble("cache-news", __doc__ or "", values)
        document["rows"] = [{"case": name, **cost._asdict()} for name, cost in rows]
        document["memory"] = None if memory is None else memory._asdict()
        write_json(arguments.json, document)
    return 0


def _show(console: Console, rows: list[tuple[str, Cost]]) -> None:
    table = Table(box=None, pad_edge=False)
    columns = ("routers × workers", "CPU µs/request", "of it the store's", "bytes/request to a router")
    for name in (*columns, "staleness ms, mean", "p99", "a new router knows after s", "CPU µs/message"):
        table.add_column(name, justify="left" if name == columns[0] else "right")
    for name, cost in rows:
        table.add_row(
            name,
            f"{cost.cpu_us:.0f}",
            f"{cost.server_us:.0f}" if cost.server_us else "",
            f"{cost.bytes:.0f}",
            f"{cost.staleness_ms:.0f}",
            f"{cost.staleness_most_ms:.0f}",
            f"{cost.caught_up_s:.2f}" if cost.caught_up_s else "",
            f"{cost.message_us:.1f}",
        )
    console.print(table, soft_wrap=True)
