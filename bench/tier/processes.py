"""The processes under measurement: started pinned to cores, their CPU and memory read, always stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from qwenserve.bench.meter import process_cpu_s, resident_bytes
from qwenserve.runtime.process import PACKAGE_ROOT

_STOP_TIMEOUT_S = 15.0
_POLL_S = 0.05


class ProcessError(Exception):
    """A process did not come up. The text has the end of its log."""


class Process:
    """One running process. `log` is what it has written so far."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log_file: Path) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._log_file = log_file

    @property
    def log(self) -> str:
        """What it wrote to standard output and error."""
        return self._log_file.read_text(encoding="utf-8", errors="replace")

    def forget_log(self) -> None:
        """Throws away what it has written so far: a line for each of a million requests fills a disk."""
        os.truncate(self._log_file, 0)

    def cpu_s(self) -> float:
        """CPU seconds so far. Raises ProcessLookupError."""
        return process_cpu_s(self.pid)

    def resident_mib(self) -> float:
        """Resident memory. Raises ProcessLookupError."""
        return resident_bytes(self.pid) / 2**20

    async def wait_for(self, mark: str, timeout_s: float) -> None:
        """Waits until the log contains `mark`. Raises ProcessError."""
        for _ in range(int(timeout_s / _POLL_S)):
            if mark in self.log:
                return
            if self._process.poll() is not None:
                raise ProcessError(f"{self.name} ended with {self._process.returncode}: {self.log[-800:]}")
            await asyncio.sleep(_POLL_S)
        raise ProcessError(f"{self.name} was not ready within {timeout_s:g} s: {self.log[-800:]}")

    async def wait_for_port(self, port: int, timeout_s: float) -> None:
        """Waits until something listens on a port of this machine. Raises ProcessError."""
        for _ in range(int(timeout_s / _POLL_S)):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            if self._process.poll() is not None:
                raise ProcessError(f"{self.name} ended with {self._process.returncode}: {self.log[-800:]}")
            await asyncio.sleep(_POLL_S)
        raise ProcessError(f"{self.name} did not listen within {timeout_s:g} s: {self.log[-800:]}")

    async def stop(self) -> None:
        """Asks it to end, then makes it."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, _STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


@contextlib.asynccontextmanager
async def running(
    name: str,
    module: str,
    arguments: Sequence[str],
    cores: Collection[int],
    environment: Mapping[str, str] | None = None,
    *,
    python: str = sys.executable,
) -> AsyncIterator[Process]:
    """`python -m module arguments` on some cores, while the block lasts; `python` may be another interpreter."""
    with tempfile.TemporaryDirectory(prefix="qwenserve-bench-") as folder:
        log_file = Path(folder) / "log"
        with log_file.open("ab") as log:  # appended to, so that what is forgotten leaves no hole
            # Not asyncio's subprocesses: they fork, which gRPC's handlers remark on; this one uses vfork.
            child = await asyncio.to_thread(
                subprocess.Popen,
                [python, "-m", module, *arguments],
                cwd=PACKAGE_ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )
        process = Process(name, child, log_file)
        try:
            # Before it has threads: those that it starts later inherit the cores.
            pin(child.pid, cores)
            yield process
        finally:
            await asyncio.shield(process.stop())


def pin(pid: int, cores: Collection[int]) -> bool:
    """Keeps a process (0: this one) on some cores; returns whether that is possible here."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(pid, cores)
    return True


def get_ahead() -> bool:
    """Lets this process, and the threads that it starts from now on, run before all usual ones whenever it has
    something to do; returns whether that is allowed here."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (AttributeError, OSError):  # not Linux, or not root
        return False
    return True


@contextlib.contextmanager
def pinned(cores: Collection[int]) -> Iterator[bool]:
    """This process on some cores, while the block lasts."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    possible = pin(0, cores)
    try:
        yield possible
    finally:
        if before:
            pin(0, before)


def free_ports(count: int) -> Sequence[int]:
    """Returns ports of this machine that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
