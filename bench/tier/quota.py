"""Slices of a core: processes that may not use more than a share of one, by Linux's control groups.

So several processes on one core behave as on cores of their own, only slower ones. Needs a writable hierarchy, which
root has on most machines and few containers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# Short, so that a process that has used its share waits no longer than for an engine's step.
_PERIOD_US = 10_000
_MOUNTS = Path("/proc/self/mountinfo")
_OWN = Path("/proc/self/cgroup")


class QuotaError(Exception):
    """CPU cannot be shared out here. The text says why."""


class Hierarchy(NamedTuple):
    """Where groups are made. `home` is this process's own; `parent` is where its like may be made; `unified` is
    version 2."""

    home: Path
    parent: Path
    unified: bool

    def limits(self, share: float) -> Mapping[str, str]:
        """Returns what to write to which file of a group, so that it gets at most `share` of a core."""
        quota = round(share * _PERIOD_US)
        if self.unified:
            return {"cpu.max": f"{quota} {_PERIOD_US}"}
        return {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota)}


def find_hierarchy(mounts: str, own: str) -> Hierarchy | None:
    """Reads /proc/self/mountinfo and /proc/self/cgroup; None where no hierarchy has a CPU controller."""
    paths = {names: path for _, names, path in (line.split(":", 2) for line in own.splitlines())}
    unified = None
    for line in mounts.splitlines():
        where, _, what = line.partition(" - ")
        kind, _, options = what.split(" ", 2)
        top = Path(where.split(" ")[4])
        if kind == "cgroup" and "cpu" in options.split(","):
            path = next((path for names, path in paths.items() if "cpu" in names.split(",")), "/")
            home = top / path.lstrip("/")
            return Hierarchy(home, home, unified=False)
        if kind == "cgroup2":
            # Not in its own group: one that holds processes may not have others with controllers below it.
            unified = Hierarchy(top / paths.get("", "/").lstrip("/"), top, unified=True)
    return unified


@contextlib.contextmanager
def held_to(share: float, pids: Sequence[int]) -> Iterator[None]:
    """Each of these processes gets at most `share` of a core while the block lasts. Raises QuotaError."""
    try:
        found = find_hierarchy(_MOUNTS.read_text(), _OWN.read_text())
    except OSError as error:
        raise QuotaError(str(error)) from None
    if found is None:
        raise QuotaError("there are no control groups for CPU")
    with contextlib.ExitStack() as groups:
        try:
            for pid in pids:
                _hold(found, share, pid, groups)
        except OSError as error:
            raise QuotaError(str(error)) from None
        yield


def _hold(hierarchy: Hierarchy, share: float, pid: int, groups: contextlib.ExitStack) -> None:
    group = hierarchy.parent / f"qwenserve-bench-{pid}"
    group.mkdir()
    groups.callback(group.rmdir)
    for name, value in hierarchy.limits(share).items():
        (group / name).write_text(value)
    (group / "cgroup.procs").write_text(str(pid))
    groups.callback(_send_home, hierarchy, pid)


def _send_home(hierarchy: Hierarchy, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        (hierarchy.home / "cgroup.procs").write_text(str(pid))
