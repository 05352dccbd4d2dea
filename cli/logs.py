"""`qwenserve logs`: what a deployment's processes wrote."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import BinaryIO

from qwenserve.cli.errors import CommandError
from qwenserve.cli.processes import last_lines
from qwenserve.cli.state import Deployment, StateDirectory

_POLL_S = 0.2


def run_logs(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    state = StateDirectory()
    deployment = _deployment(state, arguments.name)
    files = _files(deployment, arguments.process)
    if not files:
        raise CommandError(f"{deployment.name} has no logs in {deployment.logs}")
    for file in files:
        for line in last_lines(file, arguments.lines, limit_bytes=8 << 20):
            _print(file, line, len(files) > 1)
    if arguments.follow:
        with contextlib.suppress(KeyboardInterrupt):
            _follow(state, deployment, files)
    return 0


def _deployment(state: StateDirectory, name: str | None) -> Deployment:
    # Logs outlive their deployment: a name is enough, running or not.
    if name is not None and state.deployment(name).logs.is_dir():
        return state.deployment(name)
    if name is None and not state.records():
        kept = [deployment for deployment in state.deployments() if deployment.logs.is_dir()]
        if len(kept) == 1:
            return kept[0]
    return state.deployment(state.find(name).name)


def _files(deployment: Deployment, process: str | None) -> list[Path]:
    files = sorted(deployment.logs.glob("*.log"))
    if process is None:
        return [file for file in files if file.stat().st_size]
    chosen = [file for file in files if file.stem == process]
    if not chosen:
        known = ", ".join(file.stem for file in files)
        raise CommandError(f"{deployment.name} has no process {process!r}; there is: {known}")
    return chosen


def _follow(state: StateDirectory, deployment: Deployment, files: list[Path]) -> None:
    """Prints what is added, until ctrl-C or until the deployment is gone."""
    with contextlib.ExitStack() as stack:
        logs = [(file, stack.enter_context(file.open("rb"))) for file in files]
        for file, log in logs:
            # What was shown above ends where the file ended a moment ago, close enough for a person.
            log.seek(file.stat().st_size)
        while True:
            ended = deployment.name not in {record.name for record in state.records() if record.supervisor.alive}
            printed = [_print_new(file, log, len(files) > 1) for file, log in logs]
            if any(printed):
                continue
            if ended:
                return
            time.sleep(_POLL_S)


def _print_new(file: Path, log: BinaryIO, named: bool) -> bool:
    printed = False
    while True:
        start = log.tell()
        line = log.readline()
        if not line.endswith(b"\n"):
            log.seek(start)  # half a line: the rest will come
            return printed
        _print(file, line.decode("utf-8", "replace").rstrip("\n"), named)
        printed = True


def _print(file: Path, line: str, named: bool) -> None:
    sys.stdout.write(f"{file.stem}  {line}\n" if named else f"{line}\n")
    sys.stdout.flush()
