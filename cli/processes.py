"""Processes of this machine, named so that a reused pid is never mistaken for the one that was started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

_STAT_STATE = 0
_STAT_START_TICKS = 19


class ProcessIdentity(BaseModel):
    """A pid together with the moment that its process began."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; one that has ended and was not reaped yet does not."""
        return start_mark(self.pid) == self.started

    def send(self, number: signal.Signals) -> bool:
        """Sends a signal to this very process. Returns whether there was one to send it to."""
        if not self.alive:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


def identify(pid: int) -> ProcessIdentity:
    """Returns the identity of a running process; one that is gone already gets an identity that is not alive."""
    return ProcessIdentity(pid=pid, started=start_mark(pid) or "gone")


def start_mark(pid: int) -> str | None:
    """Returns a text that differs between two processes that had the same pid; None without such a process."""
    if not Path("/proc/self/stat").exists():
        return _start_mark_from_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses, which may itself hold blanks and parentheses.
    fields = stat.rpartition(")")[2].split()
    if fields[_STAT_STATE] in "ZX":
        return None
    return f"{_boot_id()}:{fields[_STAT_START_TICKS]}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _start_mark_from_ps(pid: int) -> str | None:
    # Systems without /proc, such as macOS.
    found = subprocess.run(["ps", "-p", str(pid), "-o", "stat=,lstart="], capture_output=True, text=True, check=False)
    state, _, began = found.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else began.strip()


def last_lines(file: Path, count: int, *, limit_bytes: int = 64 * 1024) -> list[str]:
    """Returns the last lines of a log; reads no more than its last `limit_bytes`. Empty if there is none."""
    try:
        with file.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - limit_bytes))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-count:]


def alive(identities: Iterable[ProcessIdentity | None]) -> list[ProcessIdentity]:
    """Returns those that still run."""
    return [identity for identity in identities if identity is not None and identity.alive]
