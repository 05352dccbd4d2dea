"""What the machine and this process did during a run: own CPU, event-loop lag, throttling, everybody else's CPU.

Linux tells all of it; elsewhere what cannot be read is None and the findings that need it are not made.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sysconfig
import time
from array import array
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

_LAG_PERIOD_S = 0.01
_PROC_STAT = Path("/proc/stat")
_CGROUP_FILES = (Path("/sys/fs/cgroup/cpu.stat"), Path("/sys/fs/cgroup/cpu/cpu.stat"))


class MachineTimes(NamedTuple):
    """CPU seconds of the whole machine since it started."""

    busy_s: float
    steal_s: float


class Usage(NamedTuple):
    """One run as the meter saw it. `cpu_share` is of one core; lags are milliseconds."""

    wall_s: float
    cpu_s: float
    cpu_share: float
    lag_p50_ms: float
    lag_p99_ms: float
    lag_most_ms: float
    throttled_s: float | None
    steal_s: float | None
    machine_busy_s: float | None


class Meter:
    """Measures between `start` and `stop`, on the running loop."""

    def __init__(self) -> None:
        self._lags = array("d")
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begins."""
        self._loop = asyncio.get_running_loop()
        self._machine = machine_times()
        self._throttled = throttled_s()
        self._cpu = time.process_time()
        self._began = time.perf_counter()
        self._arm()

    def stop(self) -> Usage:
        """Ends, and returns what was seen."""
        if self._timer is not None:
            self._timer.cancel()
        wall = time.perf_counter() - self._began
        cpu = time.process_time() - self._cpu
        machine, throttled = machine_times(), throttled_s()
        known = machine is not None and self._machine is not None
        lags = sorted(self._lags) or [0.0]
        return Usage(
            wall_s=wall,
            cpu_s=cpu,
            cpu_share=cpu / wall if wall > 0 else 0.0,
            lag_p50_ms=lags[len(lags) // 2] * 1e3,
            lag_p99_ms=lags[min(len(lags) - 1, int(len(lags) * 0.99))] * 1e3,
            lag_most_ms=lags[-1] * 1e3,
            throttled_s=None if throttled is None or self._throttled is None else throttled - self._throttled,
            steal_s=machine.steal_s - self._machine.steal_s if known and machine and self._machine else None,
            machine_busy_s=machine.busy_s - self._machine.busy_s if known and machine and self._machine else None,
        )

    def _arm(self) -> None:
        # Not the loop's own clock: uvloop's stands still while it works, and counts milliseconds.
        self._due = time.perf_counter() + _LAG_PERIOD_S
        self._timer = self._loop.call_later(_LAG_PERIOD_S, self._woke)

    def _woke(self) -> None:
        self._lags.append(max(0.0, time.perf_counter() - self._due))
        self._arm()


def parse_machine_times(text: str, ticks_per_s: int) -> MachineTimes:
    """Reads the first line of /proc/stat. Guest time is part of user time already."""
    user, nice, system, _idle, _wait, irq, soft, steal = (int(field) for field in text.split("\n", 1)[0].split()[1:9])
    busy = user + nice + system + irq + soft
    return MachineTimes(busy / ticks_per_s, steal / ticks_per_s)


def machine_times() -> MachineTimes | None:
    """Returns the machine's CPU times, or None where they cannot be read."""
    try:
        return parse_machine_times(_PROC_STAT.read_text(), os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError):
        return None


def parse_throttled(text: str) -> float | None:
    """Reads a control group's cpu.stat, version 1 (ns) or 2 (µs); returns seconds."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "throttled_usec":
            return int(value) / 1e6
        if name == "throttled_time":
            return int(value) / 1e9
    return None


def throttled_s() -> float | None:
    """Returns how long this control group was kept from its CPU so far, or None where there is no limit to read."""
    file = next((file for file in _CGROUP_FILES if file.is_file()), None)
    return None if file is None else parse_throttled(file.read_text())


def process_cpu_s(pid: int) -> float:
    """Returns the CPU seconds that a process has used, all its threads, ended ones too. Raises ProcessLookupError.

    The kernel's CPU clock of the process counts nanoseconds; /proc/PID/stat counts ticks of 10 ms.
    """
    try:
        return time.clock_gettime(_cpu_clock(pid))
    except OSError:
        raise ProcessLookupError(f"no process {pid}") from None


def _cpu_clock(pid: int) -> int:
    # The number that clock_getcpuclockid(3) gives: the complement of the pid, shifted, with 2 for "scheduled time".
    return (~pid << 3) | 2


def resident_bytes(pid: int) -> int:
    """Returns a process's resident memory. Raises ProcessLookupError."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        raise ProcessLookupError(f"no process {pid}") from None
    return pages * os.sysconf("SC_PAGE_SIZE")


def describe_machine() -> dict[str, Any]:
    """Returns what a reader needs to know about the machine, without its name."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(usable_cores()),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "python_build": python_build(sysconfig.get_config_var("CONFIG_ARGS") or ""),
    }


def python_build(configured: str) -> str:
    """Returns how an interpreter was built, by what its `configure` was given: `optimized` (guided by a profile),
    `distribution` (Debian and its kin do the same, by a rule of their own that leaves no trace), or `plain`, which is
    what a `configure` without arguments makes, and so pyenv, and takes more CPU for the same code."""
    if "--enable-optimizations" in configured:
        return "optimized"
    return "distribution" if "--prefix=/usr'" in configured else "plain"


def usable_cores() -> Sequence[int]:
    """Returns the cores that this process may use, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def describe_versions() -> dict[str, str]:
    """Returns the versions of what takes part in a run on this side."""
    names = ("qwenserve", "aiohttp", "grpcio", "protobuf", "uvloop", "tokenizers", "uvicorn", "httptools")
    return {name: version for name in names if (version := _version(name))}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
