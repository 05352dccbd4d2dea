"""One process of a deployment: started here, or left by a supervisor that was killed and taken over."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from qwenserve.cli.plan import ProcessPlan
from qwenserve.cli.ports import free_endpoints
from qwenserve.cli.processes import ProcessIdentity, identify, last_lines
from qwenserve.cli.state import ProcessRecord, ProcessState
from qwenserve.runtime.process import PACKAGE_ROOT

_POLL_S = 0.2
_SHOWN_LINES = 20
_LOOPBACK = "127.0.0.1"


class _Handle(Protocol):
    """A running process, whichever process is its parent."""

    identity: ProcessIdentity

    async def wait(self) -> int | None:
        """Returns its exit code once it has ended; None where only a parent could know."""

    def send(self, number: signal.Signals) -> bool:
        """Sends a signal unless the process is gone. Returns whether it was sent."""


class Instance(NamedTuple):
    """One run of a child: the process, and where it alone answers health checks."""

    handle: _Handle
    probe: str


class Child:
    """A place in the plan, and the process that fills it. The log goes on from one process to the next."""

    def __init__(self, plan: ProcessPlan, log: Path, secrets: Mapping[str, str]) -> None:
        self.plan = plan
        self.log = log
        self.state: ProcessState = "starting"
        self.ready = asyncio.Event()
        self.restarts = 0
        self.current: Instance | None = None
        # Whether a rolling restart has told the process that runs to end.
        self.asked = False
        self._secrets = secrets
        self.settings = _digest(plan, secrets)

    async def start(self) -> Instance:
        """Starts a process, without making it the current one. Raises OSError where none can be had."""
        probe = self.plan.probe
        arguments = list(self.plan.arguments)
        if self.plan.tier != "store":  # which writes to its output, and knows no settings of ours
            arguments += ["--set", f"log.file={json.dumps(str(self.log))}"]
        if self.plan.shared or self.plan.tls:
            # Behind a shared port any of the processes answers; this one is asked at a port of its own.
            own = free_endpoints(_LOOPBACK, 1)[0]
            probe = str(own)
            arguments += ["--set", f"health_port={own.port}"]
        with contextlib.ExitStack() as stack:
            try:
                log = stack.enter_context(self.log.open("ab")).fileno()
            except OSError:  # a full or read-only disk must not keep it from serving
                log = subprocess.DEVNULL
            process = await asyncio.create_subprocess_exec(
                *arguments,
                cwd=PACKAGE_ROOT,
                env={**os.environ, **self._secrets, **self.plan.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal goes to the whole process group; who stops when is decided here.
                start_new_session=True,
            )
        return Instance(_Started(process), probe)

    def take_over(self, record: ProcessRecord, identity: ProcessIdentity) -> None:
        """Makes a process of an earlier supervisor the current one."""
        self.restarts = record.restarts
        self.current = Instance(_TakenOver(identity), record.address)

    async def wait(self) -> None:
        """Waits until the current process has ended; returns at once without one."""
        if self.current is not None:
            await self.current.handle.wait()

    def send(self, number: signal.Signals) -> bool:
        """Sends a signal to the current process. Returns whether it was sent."""
        return self.current is not None and self.current.handle.send(number)

    async def kill(self) -> None:
        """Ends the current process at once, if it still runs."""
        if self.send(signal.SIGKILL):
            await self.wait()

    def last_lines(self) -> list[str]:
        """What the log ends with."""
        return last_lines(self.log, _SHOWN_LINES)

    def record(self) -> ProcessRecord:
        """The process as other commands see it."""
        return ProcessRecord(
            name=self.plan.name,
            tier=self.plan.tier,
            address=self.current.probe if self.current is not None else self.plan.probe,
            state=self.state,
            identity=self.current.handle.identity if self.current is not None else None,
            restarts=self.restarts,
            settings=self.settings,
        )


class _Started:
    """A process that this one started."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.identity = identify(process.pid)

    async def wait(self) -> int | None:
        return await self._process.wait()

    def send(self, number: signal.Signals) -> bool:
        if self._process.returncode is not None:
            return False
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
            return True
        return False


class _TakenOver:
    """A process that another one started. Its end can be seen, its exit code cannot."""

    def __init__(self, identity: ProcessIdentity) -> None:
        self.identity = identity

    async def wait(self) -> int | None:
        while self.identity.alive:  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(_POLL_S)
        return None

    def send(self, number: signal.Signals) -> bool:
        return self.identity.send(number)


def _digest(plan: ProcessPlan, secrets: Mapping[str, str]) -> str:
    """Returns a text that is equal for processes with equal settings, and tells nothing about them."""
    everything = json.dumps([plan.arguments, plan.environment, dict(secrets)], sort_keys=True)
    return hashlib.sha256(everything.encode()).hexdigest()


def ending(code: int | None) -> str:
    """Returns how a process ended, in words."""
    if code is None:
        return "as its parent is gone, nobody knows how"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
