"""Which process is meant by a pid."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qwenserve.cli.processes import ProcessIdentity, alive, identify, last_lines


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_running_process_is_alive_and_gets_signals(sleeper):
    """A signal reaches the process that was identified."""
    identity = identify(sleeper.pid)
    assert identity.alive

    assert identity.send(signal.SIGTERM)

    assert sleeper.wait(10) == -signal.SIGTERM


def test_reused_pid_is_left_alone(sleeper):
    """Another process that has the pid by now is neither alive nor signalled."""
    reused = identify(sleeper.pid).model_copy(update={"started": "long ago"})

    assert not reused.alive
    assert not reused.send(signal.SIGKILL)
    assert sleeper.poll() is None


def test_ended_process_is_not_alive_before_it_is_reaped():
    """A zombie has a pid, and has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    identity = identify(process.pid)
    assert process.stdin is not None
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and left as a zombie

    assert not identity.alive
    process.wait(10)


def test_alive_leaves_out_what_is_gone_or_never_was():
    """Only what runs is returned."""
    this = identify(os.getpid())

    assert alive([None, ProcessIdentity(pid=os.getpid(), started="x"), this]) == [this]


@pytest.mark.parametrize(("count", "expected"), [(2, ["b", "c"]), (9, ["a", "b", "c"])])
def test_last_lines(tmp_path: Path, count: int, expected: list[str]):
    """The end of a log, or all of a short one."""
    log = tmp_path / "log"
    log.write_text("a\nb\nc\n")

    assert last_lines(log, count) == expected


def test_last_lines_of_no_file(tmp_path: Path):
    """A log that does not exist has no lines."""
    assert last_lines(tmp_path / "none", 3) == []
