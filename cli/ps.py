"""`qwenserve ps`: what runs on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from qwenserve.cli.cluster import cluster_table
from qwenserve.cli.options import config_file, overrides_of
from qwenserve.cli.output import Output
from qwenserve.cli.state import DeploymentRecord, StateDirectory
from qwenserve.runtime.config import load_config

_HEADER = ("PORT(HTTP,RPC)", "NAME", "PID", "STATE", "PATH")


def run_ps(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    output = Output()
    if arguments.cluster:
        config = load_config(config_file(arguments.config), overrides=overrides_of(arguments)).config
        output.table(*cluster_table(config.store))
        return 0
    records = StateDirectory().records()
    output.table(*table_of(records))
    if arguments.processes:
        output.line()
        output.table(*process_table_of(records))
    return 0


def table_of(records: Sequence[DeploymentRecord]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Returns header and rows, one row a deployment."""
    rows: list[Sequence[str]] = []
    for record in records:
        ports = ",".join(address.rpartition(":")[2] or "-" for address in (record.http, record.grpc))
        rows.append((ports, record.name, str(record.supervisor.pid), record.shown_state, record.path))
    return _HEADER, rows


def process_table_of(records: Sequence[DeploymentRecord]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Returns header and rows, one row a process."""
    rows: list[Sequence[str]] = []
    for record in records:
        for process in record.processes:
            identity = process.identity
            state = process.state if process.running or process.state in ("failed", "restarting", "stopped") else "dead"
            pid = str(identity.pid) if identity is not None else "-"
            rows.append((process.address, record.name, process.name, pid, state, str(process.restarts)))
    return ("ADDRESS", "DEPLOYMENT", "PROCESS", "PID", "STATE", "RESTARTS"), rows
