"""What this process may use of its machine: cores and memory, with a container's limits counted in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


class Machine(NamedTuple):
    """Usable cores, and bytes of memory that can be had without swapping."""

    cores: int
    free_memory_bytes: int


def look_at_machine(cgroup: Path = _CGROUP, meminfo: Path = _MEMINFO) -> Machine:
    """Reads the limits. Where the memory limit is unknown, it counts as unlimited."""
    return Machine(_cores(cgroup), min(_available(meminfo), _memory_quota(cgroup)))


def _cores(cgroup: Path) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        # Threads beyond the quota would all be stopped together, in the middle of a step.
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such limit, or "max"
        return cores


def _available(meminfo: Path) -> int:
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 1 << 60


def _memory_quota(cgroup: Path) -> int:
    try:
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))
        return max(0, limit - int((cgroup / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return 1 << 60
