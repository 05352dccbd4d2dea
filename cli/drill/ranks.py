"""The MPI ranks of a worker that runs on this machine, found by their environment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from qwenserve.cli.processes import ProcessIdentity, identify
from qwenserve.worker.mpi.command_line import JOB_VARIABLE

_NUMBERS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
_PARENT = 1


def ranks_of(launcher: int) -> list[ProcessIdentity]:
    """Returns the ranks that a process has started, rank 0 first; none where it has none, or there is no /proc."""
    found: dict[int, int] = {}
    for pid in _descendants(launcher):
        with contextlib.suppress(OSError):  # it has just ended
            items = (Path("/proc") / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
            environment = dict(item.partition("=")[::2] for item in items)
            numbers = [environment[name] for name in _NUMBERS if name in environment]
            if JOB_VARIABLE in environment and numbers:
                # What a rank starts itself has its environment; the rank is the oldest.
                found.setdefault(int(numbers[0]), pid)
    return [identify(found[number]) for number in sorted(found)]


def _descendants(pid: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[_PARENT]), []).append(int(entry.name))
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(0), [])
        yield from below
        waiting += below
