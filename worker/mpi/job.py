"""The directory of a running job: what the launcher and rank 0 know of each other, and what MPI leaves lying about.

    lock    held by the launcher as long as it lives
    pid     rank 0's process, which takes the launcher's signals
    ready   there once rank 0 serves
    code    rank 0's exit code: launchers between the two have codes of their own

It is in shared memory where there is any, and its name holds nothing that blanks or quotes could break.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "qwenserve-mpi-"
_SHARED_MEMORY = Path("/dev/shm")


class JobDirectory:
    """One job. Everything but `created` is for either side."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @contextlib.contextmanager
    def created(cls) -> Iterator[JobDirectory]:
        """A new directory, which goes at the end of the block with all that is in it."""
        base = _base()
        _remove_left_ones(base)
        job = cls(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base)))
        try:
            with (job.path / "lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield job
        finally:
            shutil.rmtree(job.path, ignore_errors=True)

    @property
    def launcher_alive(self) -> bool:
        """Whether the process that made this directory still runs."""
        return _is_locked(self.path / "lock")

    def note(self, name: str, value: int) -> None:
        """Writes a number, whole or not at all."""
        new = self.path / f"{name}.new"
        with contextlib.suppress(OSError):  # the directory is gone when the launcher is
            new.write_text(str(value), encoding="ascii")
            new.replace(self.path / name)

    def noted(self, name: str) -> int | None:
        """Returns the number; None where there is none yet."""
        try:
            return int((self.path / name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def processes(self) -> list[int]:
        """Returns the processes of this machine that belong to the job, by their environment; none without /proc."""
        mark = str(self.path).encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                if int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def kill_processes(self) -> int:
        """Ends at once what is left of the job on this machine; returns how many processes that were."""
        left = self.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return len(left)


def _base() -> Path:
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _remove_left_ones(base: Path) -> None:
    # Launchers that were killed could not.
    for path in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == os.getuid() and (path / "lock").exists() and not _is_locked(path / "lock"):
                shutil.rmtree(path, ignore_errors=True)
