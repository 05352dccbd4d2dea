"""`qwenserve top`: what a deployment or a cluster does right now, from its routers' metrics."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import aiohttp
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qwenserve.cli.cluster import router_addresses
from qwenserve.cli.errors import CommandError
from qwenserve.cli.options import config_file, overrides_of
from qwenserve.cli.output import Output
from qwenserve.cli.state import StateDirectory
from qwenserve.cli.top.metrics import Look, Span, read_metrics
from qwenserve.cli.top.view import View, view_of
from qwenserve.runtime.client_tls import ClientTls, tls_of
from qwenserve.runtime.config import load_config

_TIMEOUT_S = 5.0
# A router that shares its port with others is met by chance: so often is each of them looked for.
_TRIES = 3
# A process that was not met for so many looks is gone.
_FORGET = 10

# Its address, and what tells it from others that listen there.
_Process: TypeAlias = "tuple[str, tuple[float, float]]"


class Source(NamedTuple):
    """Where to ask: a base URL, and how many processes listen there."""

    url: str
    processes: int = 1
    tls: ClientTls | None = None


class Watch:
    """Looks at routers again and again. Processes behind one address are told apart by their numbers."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._spans: dict[_Process, Span] = {}
        self._missed: dict[_Process, int] = {}

    async def look(self) -> View:
        """Asks all routers; returns what there is to see."""
        unreachable = []
        met: dict[_Process, Look] = {}
        for source in self._sources:
            looks = await asyncio.gather(
                *(_ask(source) for _ in range(source.processes * _TRIES if source.processes > 1 else 1))
            )
            found = {(source.url, look.process): look for look in looks if look is not None}
            met |= found
            if not found:
                unreachable.append(source.url)
        for key, look in met.items():
            before = self._spans[key].now if key in self._spans else look
            self._spans[key], self._missed[key] = Span(before, look), 0
        for key in self._spans.keys() - met.keys():
            self._missed[key] += 1
        gone = frozenset(unreachable)
        self._spans = {
            key: span for key, span in self._spans.items() if self._missed[key] <= _FORGET and key[0] not in gone
        }
        return view_of(list(self._spans.values()), unreachable)


def run_top(arguments: argparse.Namespace) -> int:
    """Runs the command until ctrl-C, or once; returns the exit code: 1 where no router was reached."""
    watch = Watch(_sources(arguments))
    output = Output()
    if arguments.once or not output.console.is_terminal:
        return _print(output, asyncio.run(_twice(watch, arguments.interval)))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_live(watch, output, arguments.interval))
    return 0


def _sources(arguments: argparse.Namespace) -> list[Source]:
    if arguments.address:
        return [_source(address, arguments) for address in arguments.address]
    if arguments.cluster:
        config = load_config(config_file(arguments.config), overrides=overrides_of(arguments)).config
        found = router_addresses(config.store)
        if not found:
            raise CommandError("the store knows no router with an HTTP address")
        return [_source(address, arguments) for address in found]
    record = StateDirectory().find(arguments.name)
    if not record.http:
        raise CommandError(f"{record.name} has no HTTP API, whose /metrics is what is shown; see http.enabled")
    processes = max(1, sum(process.tier == "router" for process in record.processes))
    return [Source(record.http_url, processes, tls_of(arguments, known=record.tls))]


def _source(address: str, arguments: argparse.Namespace) -> Source:
    tls = tls_of(arguments, address)
    scheme = "https" if tls is not None else "http"
    return Source(address.rstrip("/") if "://" in address else f"{scheme}://{address}", tls=tls)


async def _ask(source: Source) -> Look | None:
    # A connection of its own each time: the kernel gives it to any of the processes that share the port. It is closed
    # with its session, which waits for that; one that is closed behind the reply could outlive the event loop.
    context = source.tls.context() if source.tls is not None else True
    connector = aiohttp.TCPConnector(ssl=context)
    limit = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=limit) as session,
            session.get(f"{source.url}/metrics") as reply,
        ):
            if reply.status != 200:
                return None
            return read_metrics(await reply.text(), time.monotonic())
    except (aiohttp.ClientError, asyncio.TimeoutError, ValueError):
        return None


async def _twice(watch: Watch, interval_s: float) -> View:
    await watch.look()
    await asyncio.sleep(interval_s)
    return await watch.look()


async def _live(watch: Watch, output: Output, interval_s: float) -> None:
    with Live(console=output.console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_drawn(await watch.look()), refresh=True)
            await asyncio.sleep(interval_s)


def _drawn(view: View) -> RenderableType:
    summary = Table.grid(padding=(0, 2))
    for name, text in view.summary:
        summary.add_row(Text(name, style="bold"), Text(text))
    workers = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for index, name in enumerate(view.header):
        workers.add_column(name, justify="left" if index < 2 else "right")
    for row in view.rows:
        workers.add_row(*(Text(cell, style="" if row[1] == "ready" else "red") for cell in row))
    return Group(summary, Text(), workers, Text("\nctrl-C ends", style="dim"))


def _print(output: Output, view: View) -> int:
    for name, text in view.summary:
        output.line(f"{name:15} {text}")
    output.line()
    output.table(view.header, view.rows)
    return int(view.summary[0][1].startswith("0 seen"))
