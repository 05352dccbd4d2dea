"""`qwenserve chat`: finds or starts a router, then talks to it over the public gRPC API."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import grpc

from qwenserve.cli.chat.commands import COMMANDS, ChatSettings
from qwenserve.cli.chat.lines import PipedQuestions, Questions, TerminalQuestions
from qwenserve.cli.chat.loop import ChatLoop
from qwenserve.cli.errors import CommandError
from qwenserve.cli.model import local_path
from qwenserve.cli.options import overrides_of
from qwenserve.cli.output import Output
from qwenserve.cli.peer import find_router
from qwenserve.cli.program import program
from qwenserve.cli.state import StateDirectory
from qwenserve.cli.supervisor import Event, Supervisor
from qwenserve.cli.up import Prepared, prepare
from qwenserve.runtime.client_channel import router_channel
from qwenserve.runtime.client_tls import ClientTls, tls_of
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.lifecycle import Shutdown, on_signals

_CONNECT_S = 10.0


def run_chat(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    state = StateDirectory()
    output = Output()
    if arguments.address is not None:
        tls = tls_of(arguments, arguments.address)
        return asyncio.run(_chat_at(arguments.address, tls, arguments, state, output))
    model = _model_named(arguments.name, state)
    if not overrides_of(arguments) and arguments.config is None and model is None:
        record = state.find(arguments.name)
        return asyncio.run(_chat_at(record.grpc, tls_of(arguments, known=record.tls), arguments, state, output))
    if model is not None and arguments.model is not None:
        raise CommandError(f"two models: {model} and {arguments.model}; give one")
    arguments.model = model or arguments.model
    news = Output(to_stderr=True)
    # Not inside the event loop, which would keep ctrl-C from ending a download.
    prepared = _prepare_own(arguments, state, news)
    return asyncio.run(_chat_alone(prepared, arguments, state, output, news))


async def _chat_at(
    address: str, tls: ClientTls | None, arguments: argparse.Namespace, state: StateDirectory, output: Output
) -> int:
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    settings = _settings(arguments, terminal)
    questions: Questions = TerminalQuestions(state.history_file, list(COMMANDS)) if terminal else PipedQuestions()
    key = arguments.api_key or os.environ.get("QWENSERVE_API_KEY", "")
    async with _connected(address, tls, state) as channel:
        if terminal:
            output.line("/help shows commands; ctrl-C stops an answer; ctrl-D leaves", "dim")
        loop = ChatLoop(channel, settings, questions, output, api_key=key, interactive=terminal)
        await loop.run()
    # In a terminal the user has seen the error and continued; a script needs the exit code.
    return 1 if loop.failures and not terminal else 0


async def _chat_alone(
    prepared: Prepared, arguments: argparse.Namespace, state: StateDirectory, output: Output, news: Output
) -> int:
    """Starts a deployment for this chat alone, and stops it at the end."""
    shutdown, task = Shutdown(), asyncio.current_task()
    ended_by: list[int] = []

    def show(event: Event) -> None:
        if event.lines:
            news.line(f"{event.process or 'chat'}: {event.text}")
            news.lines(event.lines)

    def end(number: int) -> None:
        ended_by.append(number)
        if task is not None and not shutdown.drain.is_set():
            task.cancel()
        shutdown.request()

    # Signals are caught from the first start to the last end: a signal that ended this process between would leave
    # the others running.
    with prepared.deployment.lock(), on_signals(end, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        supervisor = Supervisor(prepared.plan, prepared.deployment, show)
        running = asyncio.ensure_future(supervisor.run(shutdown))
        ready = asyncio.ensure_future(supervisor.ready.wait())
        try:
            await asyncio.wait({ready, running}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            if prepared.note:
                news.line(f"note: {prepared.note}", "yellow")
            plan = prepared.plan
            return await _chat_at(plan.grpc, plan.tls, arguments, state, output)
        except asyncio.CancelledError:
            if not ended_by:
                raise
            return 128 + ended_by[0]
        finally:
            ready.cancel()
            shutdown.drain.set()
            with on_signals(end, signal.SIGINT):  # the terminal's prompt has installed its own handler for it
                await asyncio.gather(running, ready, return_exceptions=True)


def _model_named(name: str | None, state: StateDirectory) -> str | None:
    """Returns the model that NAME means; None where it means a deployment, or nothing that could be a model."""
    if name is None or name in {record.name for record in state.records()}:
        return None
    return name if "/" in name or local_path(name) is not None else None


def _prepare_own(arguments: argparse.Namespace, state: StateDirectory, output: Output) -> Prepared:
    arguments.what = None
    arguments.name = f"chat-{os.getpid()}"
    arguments.workers, arguments.routers, arguments.tokenizers, arguments.store = 1, 1, 0, False
    arguments.grpc_port = arguments.grpc_port or "0"
    arguments.set = [*arguments.set, "http.enabled=false"]
    return prepare(arguments, state, output)


def _settings(arguments: argparse.Namespace, terminal: bool) -> ChatSettings:
    settings = ChatSettings(show_stats=arguments.stats)
    settings.show_thinking = terminal if arguments.thoughts is None else arguments.thoughts == "show"
    settings.memory.system = arguments.system or ""
    settings.memory.thinking = False if arguments.no_think else None
    return settings


@contextlib.asynccontextmanager
async def _connected(given: str, tls: ClientTls | None, state: StateDirectory) -> AsyncIterator[grpc.aio.Channel]:
    address, tls = await find_router(given, tls, state.records())
    async with await router_channel(address, tls) as channel:
        try:
            await within(_CONNECT_S, channel.channel_ready())
        except asyncio.TimeoutError:
            raise CommandError(
                f"what listens at {address} does not speak gRPC, or is not ready; {program()} ps shows what runs"
            ) from None
        yield channel
