"""Slices of a core: which control group is whose, and what a process gets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenserve.bench.tier.quota import Hierarchy, QuotaError, find_hierarchy, held_to

CPU = Path("/sys/fs/cgroup/cpu,cpuacct")
TOP = Path("/sys/fs/cgroup")
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """One that waits until it is told to end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield child
        child.communicate(b"\n")


def group_of(pid: int) -> Path:
    """Where a process is held; never there on a machine without groups."""
    hierarchy = find_hierarchy(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    return (hierarchy.parent if hierarchy else TOP) / f"qwenserve-bench-{pid}"


@pytest.mark.parametrize(
    ("mounts", "own", "expected"),
    [
        (V1, "4:memory:/a\n3:cpu,cpuacct:/b/c\n0::/", Hierarchy(CPU / "b/c", CPU / "b/c", unified=False)),
        (V1, "0::/", Hierarchy(CPU, CPU, unified=False)),
        (V2, "0::/user.slice/x.scope", Hierarchy(TOP / "user.slice/x.scope", TOP, unified=True)),
        ("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755", "", None),
    ],
)
def test_groups_are_made_where_there_is_cpu_to_share(mounts: str, own: str, expected: Hierarchy | None) -> None:
    """Beside the own processes in version 2, below the own group in version 1, which goes first where both are."""
    assert find_hierarchy(mounts, own) == expected


def test_limits_are_of_a_short_period() -> None:
    """A fifth of a core is 2 ms of every 10."""
    assert Hierarchy(TOP, TOP, unified=True).limits(0.2) == {"cpu.max": "2000 10000"}
    old = Hierarchy(TOP, TOP, unified=False).limits(0.2)
    assert old == {"cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "2000"}


def test_a_process_is_held_while_the_block_lasts(process: subprocess.Popen[bytes]) -> None:
    """In a group of its own, which is gone afterwards; the process is where it was."""
    own = Path(f"/proc/{process.pid}/cgroup")
    before = own.read_text()
    try:
        with held_to(0.5, [process.pid]):
            (line,) = [line for line in own.read_text().splitlines() if f"qwenserve-bench-{process.pid}" in line]
            assert line not in before
            assert group_of(process.pid).is_dir()
    except QuotaError as error:
        pytest.skip(str(error))
    assert not group_of(process.pid).exists()
    assert own.read_text() == before


def test_what_cannot_be_held_is_told() -> None:
    """And leaves no group behind."""
    no_process = 2**22 + 1  # Linux gives no higher number than 2**22
    with pytest.raises(QuotaError), held_to(0.5, [no_process]):
        pass
    assert not group_of(no_process).exists()
