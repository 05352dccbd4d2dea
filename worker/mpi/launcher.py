"""The process that starts the ranks of a worker, passes signals on to rank 0, and leaves nothing of them behind.

It ends with rank 0's exit code: launchers between the two have codes of their own. Whatever a rank does, the job ends
within a bounded time after rank 0's end, a second signal or the deadline of the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from qwenserve.runtime.config import Config
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.lifecycle import on_signals
from qwenserve.runtime.logs import EventLog
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.mpi.command_line import (
    EXPORTED,
    Launch,
    Style,
    command_line,
    family_of,
    rank_environment,
)
from qwenserve.worker.mpi.job import JobDirectory

_log = EventLog("mpi")

_LOOK_S = 0.1
_VERSION_S = 30.0
# For mpirun to end the ranks once it should, and then for what it was sent to end itself.
_END_S = 4.0
_TERM_S = 2.0
# Beyond the worker's own limits for start and drain.
_GRACE_S = 15.0
_LOG_LINE_BYTES = 1 << 20


def launch_of(config: Config, style: Style, config_file: Path | None) -> Launch:
    """Returns what is to be started, with the `mpirun` of this installation or of the path. Raises EngineError."""
    mpi = config.worker.mpi
    mpirun = _find(mpi.launcher or "mpirun")
    try:
        found = subprocess.run(
            (mpirun, "--version"),
            capture_output=True,
            text=True,
            timeout=_VERSION_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"worker.mpi.launcher: {mpirun} does not run: {error}") from None
    family = family_of(found.stdout + found.stderr)
    if family is None:
        raise EngineError(f"worker.mpi.launcher: {mpirun} is neither of Open MPI nor of the MPICH family")
    hostfile = str(Path(mpi.hostfile).expanduser().absolute()) if mpi.hostfile else ""
    if hostfile and not Path(hostfile).exists():
        raise EngineError(f"worker.mpi.hostfile: there is no file {hostfile}")
    return Launch(
        mpirun=mpirun,
        family=family,
        style=style,
        ranks=mpi.ranks,
        python=sys.executable,
        hostfile=hostfile,
        config_file=str(config_file.absolute()) if config_file else "",
        further=mpi.arguments,
        as_root=os.geteuid() == 0,
    )


def _find(name: str) -> str:
    # What was installed with this Python first: its MPI library is the one that mpi4py finds.
    own = Path(sys.executable).parent / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        raise EngineError(f"worker.mpi.launcher: there is no {name}; install qwenserve[mpi], or an MPI of your system")
    return found


def shown(launch: Launch, settings: Mapping[str, str]) -> str:
    """Returns the command line as a shell reads it. Values of variables are left out: some are secrets."""
    return shlex.join(command_line(launch, _exported(_environment(launch, settings, "/job"))))


def _environment(launch: Launch, settings: Mapping[str, str], job: str) -> dict[str, str]:
    return rank_environment(
        os.environ, settings, job=job, config_file=launch.config_file, one_machine=not launch.hostfile
    )


def _exported(environment: Mapping[str, str]) -> list[str]:
    return [name for name in environment if name.startswith(EXPORTED)]


async def run_job(launch: Launch, settings: Mapping[str, str], config: Config) -> int:
    """Runs the ranks until they have ended; returns the exit code."""
    with JobDirectory.created() as job:
        environment = _environment(launch, settings, str(job.path))
        process = await asyncio.create_subprocess_exec(
            *command_line(launch, _exported(environment)),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LOG_LINE_BYTES,
            # Ctrl-C in a terminal goes to the whole group; here rank 0 alone is told, and drains.
            start_new_session=True,
        )
        _log.info("ranks_started", ranks=launch.ranks, launcher=launch.family.value, pid=process.pid)
        relay = asyncio.ensure_future(_relay(process))
        try:
            watch = _Watch(job, process, config)
            reason = await watch.until_over()
            if reason:
                _log.error("job_ended", reason=reason)
        finally:
            await asyncio.shield(_end(job, process))
            relay.cancel()
            await asyncio.gather(relay, return_exceptions=True)
        return 0 if watch.stopped_early else _exit_code(job, process, launch.style, reason)


def _exit_code(job: JobDirectory, process: asyncio.subprocess.Process, style: Style, reason: str) -> int:
    own = job.noted("code")
    if own or reason:
        return own or 1
    if style is Style.TRTLLM:  # its launcher's code says nothing
        return 1 if own is None else own
    code = process.returncode or 0
    return code if code >= 0 else 1


class _Watch:
    """What the launcher waits for. Signals go to rank 0, which knows what one and two of them mean."""

    def __init__(self, job: JobDirectory, process: asyncio.subprocess.Process, config: Config) -> None:
        self._job = job
        self._process = process
        self._start_s = config.worker.mpi.start_timeout_s + _GRACE_S
        self._drain_s = config.drain_notice_s + config.drain_timeout_s + _GRACE_S
        # Whether it was told to stop before rank 0 served.
        self.stopped_early = False
        self._signals = 0
        self._told = 0
        self._deadline = time.monotonic() + self._start_s

    async def until_over(self) -> str:
        """Returns once the ranks have ended, or must be made to; the reason is empty where they did by themselves."""
        ended = asyncio.ensure_future(self._process.wait())
        over_at: float | None = None
        ready = False
        try:
            with on_signals(lambda _: self._signalled(), signal.SIGTERM, signal.SIGINT):
                while not ended.done():
                    await asyncio.wait({ended}, timeout=_LOOK_S)
                    now = time.monotonic()
                    if not ready and self._job.noted("ready") is not None:
                        ready = True
                        self._deadline = float("inf")
                    if self._signals and not ready:
                        self.stopped_early = True  # there is nothing that could drain
                        return ""
                    self._pass_on()
                    if over_at is None and self._rank_0_is_over():
                        over_at = now
                    if over_at is not None and now > over_at + _END_S:
                        return "" if self._job.noted("code") == 0 else "rank 0 has ended and the others had not"
                    if now > self._deadline:
                        return self._overdue(ready)
        finally:
            ended.cancel()
        return ""

    def _signalled(self) -> None:
        self._signals += 1
        now = time.monotonic()
        self._deadline = min(self._deadline, now + self._drain_s) if self._signals == 1 else now + _GRACE_S

    def _pass_on(self) -> None:
        pid = self._job.noted("pid")
        if pid is None:
            return
        while self._told < min(self._signals, 2):
            self._told += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _rank_0_is_over(self) -> bool:
        if self._job.noted("code") is not None:
            return True
        pid = self._job.noted("pid")
        if pid is None:
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    def _overdue(self, ready: bool) -> str:
        if self._signals:
            return "told to stop, and rank 0 did not end in time"
        if self._job.noted("pid") is None:
            return (
                f"rank 0 did not start on this machine within {self._start_s:g} s; "
                "name this machine first in worker.mpi.hostfile"
            )
        return f"the worker was not ready within {self._start_s:g} s" if not ready else ""


async def _end(job: JobDirectory, process: asyncio.subprocess.Process) -> None:
    """Ends mpirun and whatever is left of the job."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        with contextlib.suppress(asyncio.TimeoutError):
            await within(_TERM_S, process.wait())
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    deadline = time.monotonic() + _TERM_S
    while job.processes() and time.monotonic() < deadline:
        job.kill_processes()
        await asyncio.sleep(_LOOK_S)


async def _relay(process: asyncio.subprocess.Process) -> None:
    """Writes what ranks write where this process's own log goes."""
    assert process.stdout is not None
    while data := await process.stdout.read(1 << 16):
        sys.stderr.write(data.decode("utf-8", "replace"))
        sys.stderr.flush()
