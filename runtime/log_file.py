"""A log file that stays small: everything that a process writes to its standard output and error goes there.

The file is put in place of descriptors 1 and 2, so that what native libraries print is in it too. Once it is larger
than it may be it becomes `FILE.1`, in place of an older one, and the process goes on in a new file. Nothing is copied,
and no line is lost: descriptors are exchanged in one step. The process does that itself, so that it depends on no
other process that would have to outlive it.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

# How often the size is looked at. In between a file can outgrow its limit by what is written in this time.
_LOOK_S = 2.0
_STDOUT, _STDERR = 1, 2
_OWNER_ONLY = 0o600


class LogFile:
    """Where a process writes, with a limit to its size."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """`max_bytes` of 0 means no limit."""
        self.path = path
        self._max_bytes = max_bytes
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """From now on this process writes into the file, and a thread keeps it small. Raises OSError."""
        self._redirect()
        self._thread = threading.Thread(target=self._watch, name="log-file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread. The process goes on writing into the file."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Begins a new file where this one is full, or was moved away by somebody else."""
        try:
            written = os.fstat(_STDERR)
            if self._max_bytes and written.st_size > self._max_bytes:
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
                self._redirect()
            elif not (self.path.exists() and os.path.samestat(written, self.path.stat())):
                self._redirect()
        except OSError:
            pass  # a full or read-only disk: the process goes on with the file that it has

    def _redirect(self) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY)
        try:
            os.dup2(file, _STDOUT)
            os.dup2(file, _STDERR)
        finally:
            os.close(file)

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK_S):
            self.look()
