"""`qwenserve restart`: a new process in every place of a running deployment, one after the other."""

from __future__ import annotations

import argparse
import time

from qwenserve.cli.errors import CommandError
from qwenserve.cli.output import Output
from qwenserve.cli.program import program
from qwenserve.cli.state import DeploymentRecord, StateDirectory
from qwenserve.cli.up import RESTART_SIGNAL

_POLL_S = 0.1
# For one process to start: a large model is read from disk. Its predecessor's drain comes on top.
_START_S = 600.0


def run_restart(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    state = StateDirectory()
    record = state.find(arguments.name)
    restart(state, record, Output())
    return 0


def restart(state: StateDirectory, record: DeploymentRecord, output: Output) -> None:
    """Restarts every process of a deployment in turn, and waits for that. Raises CommandError where it does not end."""
    if not record.supervisor.alive:
        raise CommandError(
            f"nobody looks after {record.name}; `{program()} up --name {record.name} …` takes it over, and restarts it"
        )
    before = {process.name: process.identity for process in record.processes}
    record.supervisor.send(RESTART_SIGNAL)
    done: set[str] = set()
    deadline = time.monotonic() + record.drain_timeout_s + _START_S
    while len(done) < len(before):
        now = state.deployment(record.name).read()
        if now is None or now.supervisor != record.supervisor or not now.supervisor.alive:
            raise CommandError(f"{record.name} ended before every process was restarted")
        for process in now.processes:
            if process.name not in done and process.state == "ready" and process.identity != before[process.name]:
                done.add(process.name)
                output.line(f"{process.name}: restarted")
                deadline = time.monotonic() + record.drain_timeout_s + _START_S
        if time.monotonic() > deadline:
            left = ", ".join(name for name in before if name not in done)
            raise CommandError(f"not restarted in time: {left}; `{program()} logs {record.name}` may say why")
        time.sleep(_POLL_S)
    output.line(f"{record.name}: every process was restarted")
