"""`qwenserve up`: starts a deployment and stays with it, or leaves it running in the background."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.cli.errors import CommandError
from qwenserve.cli.local_store import server_program, server_settings
from qwenserve.cli.model import local_path, prepare_model
from qwenserve.cli.options import config_file, overrides_of, setting_texts
from qwenserve.cli.output import Output
from qwenserve.cli.package import is_package, unpack
from qwenserve.cli.plan import Addresses, Counts, DeploymentPlan, make_plan
from qwenserve.cli.ports import Endpoint, claim, free_endpoints, port_of
from qwenserve.cli.program import program
from qwenserve.cli.ps import table_of
from qwenserve.cli.state import Deployment, DeploymentRecord, StateDirectory, name_from, replace_text
from qwenserve.cli.supervisor import Event, Supervisor
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.client_tls import ClientTls
from qwenserve.runtime.config import Config, load_config
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.runtime.process import PACKAGE_ROOT
from qwenserve.worker.engine_choice import PreparedModel, engine_settings

_MOST_PROCESSES = 64
_LOOPBACK = "127.0.0.1"
_POLL_S = 0.1
# Asks a supervisor for a rolling restart.
RESTART_SIGNAL = signal.SIGUSR1


class Prepared(NamedTuple):
    """A deployment that can be started."""

    plan: DeploymentPlan
    deployment: Deployment
    note: str


def run_up(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    output = Output()
    state = StateDirectory()
    prepared = prepare(arguments, state, output)
    if arguments.detach:
        return _detach(prepared, output, arguments.ask)
    return run_foreground(prepared, output, ask=arguments.ask)


def prepare(arguments: argparse.Namespace, state: StateDirectory, output: Output) -> Prepared:
    """Checks everything that can be checked before a process is started. Raises CommandError or ConfigError."""
    file, overrides, package = _sources(arguments, state)
    config = load_config(file, overrides=overrides, engines=engine_settings()).config
    KeyRing.from_config(config.auth)  # a missing key file is better reported here than in a router's log
    counts = Counts(arguments.workers, arguments.routers, arguments.tokenizers)
    if arguments.store and config.store.url:
        raise CommandError("--store starts a server of its own, and store.url names another one; leave one of them out")
    store = server_program() if arguments.store else ""
    if not counts.workers and not (store or config.store.url or config.router.workers):
        raise CommandError("--workers 0 leaves nobody to answer: set store.url, where workers announce themselves")
    if sum(counts) > _MOST_PROCESSES:
        raise CommandError(f"that would be {sum(counts)} processes; at most {_MOST_PROCESSES} are started")
    deployment = state.deployment(arguments.name or name_from(config.model_name.rsplit("/", 1)[-1]))
    with deployment.lock():  # only to find out early that it runs already
        pass
    addresses = _addresses(config, counts, _left_behind(deployment), state, store=bool(store))
    model = prepare_model(config, output)
    plan = make_plan(
        config,
        name=deployment.name,
        path=str(package or file or local_path(config.model.reference) or config.model.reference),
        counts=counts,
        addresses=addresses,
        config_file=file,
        overrides={
            **overrides,
            **_absolute(config, model),
            **_token(config, deployment),
            **_own_store(config, deployment, addresses.store),
        },
        store_command=(store, str(deployment.store_settings)),
    )
    return Prepared(plan, deployment, model.note)


def _token(config: Config, deployment: Deployment) -> dict[str, str]:
    """Returns the setting that lets the processes of this deployment know each other, where nothing else does.

    It is kept, so that a later supervisor and what an earlier one left running have the same. With a store, workers
    of other machines belong to the deployment too: all of them need one that is configured.
    """
    if config.cluster.token or config.store.url:
        return {}
    return {"cluster.token": deployment.token()}


def _own_store(config: Config, deployment: Deployment, endpoint: Endpoint | None) -> dict[str, str]:
    """Writes how the deployment's own store is configured, and returns the settings by which processes find it."""
    if endpoint is None:
        return {}
    password = deployment.token("store-password")
    replace_text(
        deployment.store_settings,
        server_settings(endpoint, password=password, max_bytes=config.store.memory_bytes),
    )
    return {"store.url": f"redis://{endpoint}", "store.password": password}


def run_foreground(prepared: Prepared, output: Output, *, ask: str | None = None) -> int:
    """Starts the deployment and stays with it until ctrl-C; returns the exit code."""
    with prepared.deployment.lock():
        return asyncio.run(_supervise(prepared, output, ask))


async def _supervise(prepared: Prepared, output: Output, ask: str | None) -> int:
    plan, deployment, _ = prepared
    shutdown = Shutdown()

    def show(event: Event) -> None:
        output.line(f"{event.process or plan.name}: {event.text}")
        output.lines(event.lines)

    with shutdown.on_signals():
        # A terminal that is closed asks the same as ctrl-C.
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, shutdown.request)
        _keep_last_logs(deployment)
        output.line(f"starting {plan.name}: {', '.join(process.name for process in plan.processes)}")
        supervisor = Supervisor(plan, deployment, show)
        asyncio.get_running_loop().add_signal_handler(RESTART_SIGNAL, supervisor.request_restart)
        running = asyncio.ensure_future(supervisor.run(shutdown))
        told = asyncio.ensure_future(_when_ready(supervisor, prepared, output, ask))
        draining = asyncio.ensure_future(_tell_drain(shutdown, output))
        try:
            code = await running
            output.line(f"{plan.name} {'is stopped' if code == 0 else 'has failed'}")
            return code
        finally:
            for task in (told, draining):
                task.cancel()
            await asyncio.gather(told, draining, return_exceptions=True)


async def _when_ready(supervisor: Supervisor, prepared: Prepared, output: Output, ask: str | None) -> None:
    await supervisor.ready.wait()
    show_ready(supervisor.record, prepared.note, output)
    if ask is not None:
        await _ask(supervisor.record, ask, output)
    output.line("ctrl-C drains and stops; a second one forces")


async def _ask(record: DeploymentRecord, question: str, output: Output) -> None:
    from qwenserve.cli.ask import ask_once

    key = os.environ.get("QWENSERVE_API_KEY", "")
    await ask_once(record.grpc, question, output, api_key=key, tls=record.tls)


async def _tell_drain(shutdown: Shutdown, output: Output) -> None:
    await shutdown.drain.wait()
    output.line("draining: answers under way are finished; ctrl-C again forces")


def show_ready(record: DeploymentRecord, note: str, output: Output) -> None:
    """Prints the table, and how to ask something."""
    output.line()
    output.table(*table_of([record]))
    output.line()
    if note:
        output.line(f"note: {note}", "yellow")
    output.line(f"gRPC:  {record.grpc}   (grpcurl {_grpcurl_flags(record.tls)} {record.grpc} list)")
    if record.http:
        output.line(f"HTTP:  {record.http_url}/v1   ({record.http_url}/docs)")
        output.line(
            f"try:   curl {_curl_flags(record.tls)}{record.http_url}/v1/chat/completions "
            "-H 'Content-Type: application/json' "
            """-d '{"messages": [{"role": "user", "content": "Hello!"}]}'"""
        )
    output.line(f"       {program()} chat {record.name}")


def _curl_flags(tls: ClientTls | None) -> str:
    if tls is None:
        return ""
    shown = ("--cert", tls.cert_file, "--key", tls.key_file) if tls.cert_file else ()
    return shlex.join(("--cacert", tls.ca_file, *shown)) + " "


def _grpcurl_flags(tls: ClientTls | None) -> str:
    if tls is None:
        return "-plaintext"
    shown = ("-cert", tls.cert_file, "-key", tls.key_file) if tls.cert_file else ()
    return shlex.join(("-cacert", tls.ca_file, *shown))


def _detach(prepared: Prepared, output: Output, ask: str | None) -> int:
    plan, deployment, note = prepared
    deployment.prepare()
    replace_text(deployment.plan_file, plan.model_dump_json(indent=1))
    log = deployment.log_file("supervisor")
    log.unlink(missing_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "qwenserve.cli.background", str(deployment.folder)],
            cwd=PACKAGE_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        output.line(f"starting {plan.name}: {', '.join(p.name for p in plan.processes)}")
        record = _await_ready(process, deployment, plan.start_timeout_s, output.line)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait()
        deployment.plan_file.unlink(missing_ok=True)  # not read yet, if it ended that early
        output.line(f"{plan.name} is stopped: it was not ready yet")
        raise
    if record is None:
        output.lines(log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])
        raise CommandError(f"{plan.name} did not start")
    show_ready(record, note, output)
    if ask is not None:
        asyncio.run(_ask(record, ask, output))
    output.line(f"logs:  {program()} logs {plan.name} -f      stop: {program()} stop {plan.name}")
    return 0


def _await_ready(
    process: subprocess.Popen[bytes], deployment: Deployment, limit_s: float, line: Callable[[str], None]
) -> DeploymentRecord | None:
    """Waits until the background process says that all is ready; None if it ended before."""
    deadline = time.monotonic() + limit_s
    shown: set[str] = set()
    while time.monotonic() < deadline:
        record = deployment.read()
        # A record of an earlier run may still lie there.
        if record is not None and record.supervisor.pid == process.pid:
            for ready in (p.name for p in record.processes if p.state == "ready" and p.name not in shown):
                shown.add(ready)
                line(f"{ready}: ready")
            if record.state in ("ready", "degraded"):
                return record
        try:
            process.wait(_POLL_S)
            return None
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGTERM)
    return None


def _sources(arguments: argparse.Namespace, state: StateDirectory) -> tuple[Path | None, dict[str, str], Path | None]:
    """Returns the configuration file, the overrides, and the archive that both came from, if any."""
    overrides = overrides_of(arguments)
    what: str | None = arguments.what
    if what is not None and _names_a_model(what):
        if "model.reference" in overrides:
            raise CommandError(f"two models: {what} and {overrides['model.reference']}; give one")
        return config_file(arguments.config), {**overrides, **setting_texts({"model.reference": what})}, None
    given = Path(what).expanduser() if what is not None else None
    if given is None or not is_package(given):
        if given is not None and arguments.config is not None:
            raise CommandError(f"two configuration files: {given} and --config {arguments.config}; give one")
        return config_file(given or arguments.config), overrides, None
    if arguments.config is not None:
        raise CommandError(f"{given} holds its own configuration; leave out --config, or change settings with --set")
    package = unpack(given, state.packages)
    return package.config_file, {**package.overrides, **overrides}, given.absolute()


def _names_a_model(what: str) -> bool:
    """Whether a word means a model, and not a configuration file or an archive: both of those are files."""
    path = Path(what).expanduser()
    if path.is_file():
        return path.suffix == ".gguf"
    return path.suffix not in (".yaml", ".yml", ".tar")


def _left_behind(deployment: Deployment) -> DeploymentRecord | None:
    """Returns what an earlier supervisor of this deployment left running: its addresses are kept where possible."""
    record = deployment.read()
    if record is None or record.supervisor.alive or not any(process.running for process in record.processes):
        return None
    return record


def _addresses(
    config: Config, counts: Counts, left: DeploymentRecord | None, state: StateDirectory, *, store: bool
) -> Addresses:
    def endpoint(host: str, port: int, setting: str, before: str) -> Endpoint:
        if before and port in (0, port_of(before)):
            return Endpoint(host, port_of(before))  # the process that listens there is adopted, or drained first
        return claim(Endpoint(host, port), setting, state.records())

    def endpoints(host: str, tier: str, count: int) -> list[Endpoint]:
        living = {p.name: p.address for p in left.processes if p.running} if left is not None else {}
        kept = {n: Endpoint(host, port_of(living[f"{tier}-{n}"])) for n in range(count) if f"{tier}-{n}" in living}
        free = iter(free_endpoints(host, count - len(kept)))
        return [kept[n] if n in kept else next(free) for n in range(count)]

    http = None
    if config.http.enabled:
        http = endpoint(config.http.host, config.http.port, "http.port", left.http if left is not None else "")
    return Addresses(
        http=http,
        grpc=endpoint(config.router.host, config.router.port, "router.port", left.grpc if left is not None else ""),
        workers=endpoints(config.worker.host, "worker", counts.workers),
        tokenizers=endpoints(config.tokenizer.host, "tokenizer", counts.tokenizers),
        store=endpoints(_LOOPBACK, "store", 1)[0] if store else None,
    )


def _absolute(config: Config, model: PreparedModel) -> Mapping[str, str]:
    """Settings that processes cannot take as they are: they start in another directory."""
    settings: dict[str, Any] = {
        "model.reference": str(model.path),
        "model.name": config.model_name,
        "model.aliases": config.model_names[1:],
    }
    for section in ("auth", "store", "tls"):
        for name, file in getattr(config, section):
            if name.endswith("_file") and file:
                settings[f"{section}.{name}"] = str(Path(file).expanduser().absolute())
    if config.cache_dir:
        settings["cache_dir"] = str(config.cache_path.absolute())
    return setting_texts(settings)


def _keep_last_logs(deployment: Deployment) -> None:
    """Sets the logs of the run before aside, so that a log begins with its run. Where that fails, start-up goes on."""
    with contextlib.suppress(OSError):
        for log in deployment.logs.glob("*.log"):
            if log.name != "supervisor.log":
                log.replace(log.with_suffix(".log.1"))
