"""`qwenserve stop`: drains a deployment, or forces it to end."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Sequence

from qwenserve.cli.output import Output
from qwenserve.cli.processes import ProcessIdentity, alive
from qwenserve.cli.program import program
from qwenserve.cli.state import Deployment, DeploymentRecord, StateDirectory

_POLL_S = 0.05
# The supervisor's own limits on top of the drain time, for each of its two rounds.
_SLACK_S = 40.0
_FORCE_S = 30.0
_ORPHAN_ROUNDS = (("router",), ("worker", "tokenizer"), ("store",))


def run_stop(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    state = StateDirectory()
    output = Output()
    record = state.find(arguments.name)
    deployment = state.deployment(record.name)
    if record.supervisor.alive:
        stopped = _stop_supervised(record, output, force=arguments.force)
    else:
        stopped = _stop_orphans(record, output, force=arguments.force)
    if not stopped:
        output.line(f"{record.name} still runs; try `{program()} stop {record.name} --force`")
        return 1
    _forget(deployment, record)
    output.line(f"{record.name} is stopped")
    return 0


def _forget(deployment: Deployment, record: DeploymentRecord) -> None:
    # Somebody may have started it again in the meantime: that record is not ours to remove.
    left = deployment.read()
    if left is not None and left.supervisor == record.supervisor:
        deployment.forget()


def _stop_supervised(record: DeploymentRecord, output: Output, *, force: bool) -> bool:
    if not force and record.state != "draining":
        output.line(f"draining {record.name} (answers under way get up to {record.drain_timeout_s:g} s)")
    record.supervisor.send(signal.SIGTERM)
    if not force:
        return _wait([record.supervisor], 2 * record.drain_timeout_s + _SLACK_S)
    # The first signal asks for a drain, the second ends it; a pause between, or they would arrive as one.
    if not _wait([record.supervisor], 0.5):
        record.supervisor.send(signal.SIGTERM)
    return _wait([record.supervisor], _FORCE_S) or _kill(record, output)


def _stop_orphans(record: DeploymentRecord, output: Output, *, force: bool) -> bool:
    """Ends processes whose supervisor is gone, routers first."""
    for tiers in _ORPHAN_ROUNDS:
        left = alive(process.identity for process in record.processes if process.tier in tiers)
        for identity in left:
            identity.send(signal.SIGTERM)
        if not _wait(left, _FORCE_S if force else record.drain_timeout_s + _SLACK_S) and not force:
            return False
    return _kill(record, output) if force else True


def _kill(record: DeploymentRecord, output: Output) -> bool:
    left = alive([record.supervisor, *(process.identity for process in record.processes)])
    if left:
        output.line(f"killing {', '.join(str(identity.pid) for identity in left)}")
    for identity in left:
        identity.send(signal.SIGKILL)
    return _wait(left, _FORCE_S)


def _wait(identities: Sequence[ProcessIdentity], limit_s: float) -> bool:
    """Waits until all are gone; returns whether they are."""
    deadline = time.monotonic() + limit_s
    while alive(identities):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
