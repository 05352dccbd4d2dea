"""`qwenserve engine tune-moe`: how kernels for mixtures of experts are tuned, and which tables are there."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from qwenserve.worker.prepare.describe import describe
from qwenserve.worker.prepare.machine import this_machine
from qwenserve.worker.prepare.tune_moe import ENGINES, CannotTune, plan_tuning, tables


def add_parser(actions: Any) -> None:
    """Adds the action to `qwenserve engine`."""
    parser = actions.add_parser(
        "tune-moe", help="tune an engine's kernels for mixtures of experts", description=__doc__
    )
    parser.add_argument("model", type=Path, metavar="DIR", help="model directory")
    parser.add_argument("--engine", choices=ENGINES, default="vllm", help="whose kernels (vllm)")
    parser.add_argument("--tp", type=int, default=1, help="tensor parallelism it will be served with (1)")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where tuned tables are kept")
    parser.add_argument("--sources", type=Path, default=Path(), metavar="DIR", help="the engine's source tree (.)")
    parser.add_argument("--run", action="store_true", help="run the command here; else it is only shown")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Shows the command and the tables, and runs it where asked. Raises CannotTune or NotAModel."""
    if arguments.tp < 1:
        raise CannotTune("--tp must be 1 or more")
    tuning = plan_tuning(describe(arguments.model), arguments.engine, arguments.tp, arguments.folder, arguments.sources)
    found = tables(arguments.folder)
    fits = [table for table in found if table.file.match(_pattern(tuning.table))] if tuning.table else []
    environment = [f"{name}={value}" for name, value in tuning.environment.items()]
    if arguments.json:
        told = {
            "command": list(tuning.command),
            "environment": dict(tuning.environment),
            "table": tuning.table,
            "note": tuning.note,
            "tables": [{**table._asdict(), "file": str(table.file), "fits": table in fits} for table in found],
        }
        print(json.dumps(told, indent=2))
    else:
        print(" ".join([*map(shlex.quote, environment), shlex.join(tuning.command)]))
        print(f"# {tuning.note}")
        if tuning.table:
            print(f"# the table it will look for: {tuning.table}")
        for table in found:
            mark = "for this model" if table in fits else "for another shape or dtype"
            print(f"{table.file}: {table.card}, {len(table.batch_sizes)} batch sizes, {mark}")
    return _run(tuning.command, dict(tuning.environment), arguments) if arguments.run else 0


def _run(command: tuple[str, ...], environment: dict[str, str], arguments: argparse.Namespace) -> int:
    if this_machine(arguments.folder).card is None:
        raise CannotTune("there is no NVIDIA GPU here; run the command where the card is that will serve the model")
    if command[0] == "python3" and not Path(command[1]).exists():
        raise CannotTune(f"{command[1]} does not exist; give the engine's source tree with --sources")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def _pattern(table: str) -> str:
    # Names have brackets, which a pattern would take for a set of characters.
    return table.replace("[", "[[]")
