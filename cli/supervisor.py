"""Keeps a deployment's processes running: starts them, waits until they are ready, restarts what dies, drains.

One task per process owns it from start to end. A process that dies before its first readiness ends the deployment,
since it would die again; one that dies later is restarted with growing pauses, and ends the deployment when it dies
too often.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.cli.plan import DeploymentPlan, ProcessPlan, Tier
from qwenserve.cli.processes import identify, last_lines
from qwenserve.cli.readiness import is_http_ready, is_serving
from qwenserve.cli.state import Deployment, DeploymentRecord, DeploymentState, ProcessRecord, ProcessState
from qwenserve.runtime.lifecycle import Shutdown, TaskOwner
from qwenserve.runtime.process import PACKAGE_ROOT

_POLL_S = 0.1
_SHOWN_LINES = 20
# Beyond the configured drain time: for a process to notice, say goodbye and leave.
_EXIT_SLACK_S = 10.0
_FORCED_EXIT_S = 5.0

# Routers first: while they finish their answers, workers and tokenizers must still be there.
_DRAIN_ORDER: Sequence[Sequence[Tier]] = (("router",), ("worker", "tokenizer"))


class Event(NamedTuple):
    """Something worth telling: about a process, or about the deployment when `process` is empty."""

    process: str
    text: str
    lines: Sequence[str] = ()


class RestartPolicy:
    """Says how long to wait before the next restart; None once there were too many within the window."""

    def __init__(
        self, *, most: int = 5, window_s: float = 300.0, first_s: float = 0.5, longest_s: float = 15.0
    ) -> None:
        self._most = most
        self._window_s = window_s
        self._first_s = first_s
        self._longest_s = longest_s
        self._times: deque[float] = deque()

    def next_delay(self, now: float) -> float | None:
        """Notes a death at `now` (seconds) and returns the pause before the restart."""
        while self._times and now - self._times[0] > self._window_s:
            self._times.popleft()
        if len(self._times) >= self._most:
            return None
        self._times.append(now)
        return float(min(self._longest_s, self._first_s * 2 ** (len(self._times) - 1)))


class Supervisor:
    """Runs one deployment. `report` is told what happens; the record on disk says the same to other commands."""

    def __init__(
        self,
        plan: DeploymentPlan,
        deployment: Deployment,
        report: Callable[[Event], None],
        *,
        restarts: Callable[[], RestartPolicy] = RestartPolicy,
    ) -> None:
        self._plan = plan
        self._deployment = deployment
        self._report = report
        self._restarts = restarts
        self._children = {
            process.name: _Child(process, deployment.log_file(process.name), plan.secrets) for process in plan.processes
        }
        self._state: DeploymentState = "starting"
        self._reason = ""
        self._stopping = asyncio.Event()
        self._failed = asyncio.Event()
        self.ready = asyncio.Event()
        self._identity = identify(os.getpid())

    async def run(self, shutdown: Shutdown) -> int:
        """Runs until `shutdown` asks for a drain, or it cannot go on. Returns the exit code."""
        tasks = TaskOwner()
        try:
            self._write()
            for child in self._children.values():
                tasks.start(self._keep(child), name=child.plan.name)
            if await self._first(self._all_ready(), shutdown):
                self._set_state("ready")
                self.ready.set()
                await self._first(asyncio.Event().wait(), shutdown)
            await self._drain(shutdown)
        finally:
            await tasks.close()
            await asyncio.gather(*(child.kill() for child in self._children.values()))
            if not self._failed.is_set():
                self._deployment.forget()
        if self._failed.is_set():
            self._set_state("failed")
            return 1
        return 0

    async def _first(self, work: Coroutine[Any, Any, Any], shutdown: Shutdown) -> bool:
        """Waits for `work`, a shutdown or a failure. Returns whether `work` came first."""
        task, *others = (asyncio.ensure_future(w) for w in (work, shutdown.drain.wait(), self._failed.wait()))
        try:
            await asyncio.wait({task, *others}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() or shutdown.drain.is_set() or self._failed.is_set():
                return False
            task.result()
            return True
        finally:
            for wait in (task, *others):
                wait.cancel()
            await asyncio.gather(task, *others, return_exceptions=True)

    async def _all_ready(self) -> None:
        try:
            await asyncio.wait_for(self._until_ready(), self._plan.start_timeout_s)
        except asyncio.TimeoutError:
            children = list(self._children.values())
            # With every process ready it is the HTTP API, served by the routers, that is not.
            late = [child for child in children if not child.ready.is_set()] or children[-1:]
            names = ", ".join(child.plan.name for child in late)
            self._fail(f"not ready after {self._plan.start_timeout_s:g} s: {names}", late[0])

    async def _until_ready(self) -> None:
        await asyncio.gather(*(child.ready.wait() for child in self._children.values()))
        while self._plan.http and not await is_http_ready(self._plan.http):  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(_POLL_S)

    async def _keep(self, child: _Child) -> None:
        try:
            await self._keep_running(child)
        except Exception as error:  # nobody awaits this task: what it cannot handle must end the deployment
            self._set_process(child, "failed")
            self._fail(f"{child.plan.name}: {error!r}", child)

    async def _keep_running(self, child: _Child) -> None:
        policy = self._restarts()
        while not self._stopping.is_set():
            began = time.monotonic()
            await child.start()
            self._set_process(child, "starting")
            exited = asyncio.ensure_future(child.wait())
            try:
                if await self._becomes_ready(child, exited):
                    child.ready.set()
                    self._set_process(child, "ready")
                    self._report(Event(child.plan.name, f"ready after {time.monotonic() - began:.1f} s"))
                code = await exited
            finally:
                exited.cancel()
            if self._stopping.is_set():
                self._set_process(child, "stopped")
                return
            delay = policy.next_delay(time.monotonic()) if child.ready.is_set() else None
            if delay is None:
                often = " again and again" if child.ready.is_set() else ""
                self._set_process(child, "failed")
                self._fail(f"{child.plan.name} ended{often} ({_ending(code)})", child)
                return
            child.restarts += 1
            self._set_process(child, "restarting")
            text = f"ended ({_ending(code)}); restart {child.restarts} in {delay:g} s; its last lines:"
            self._report(Event(child.plan.name, text, child.last_lines()))
            await asyncio.sleep(delay)

    async def _becomes_ready(self, child: _Child, exited: asyncio.Future[int]) -> bool:
        while not exited.done():
            if await is_serving(child.plan.probe) and child.says_ready(self._plan.announces):
                return True
            await asyncio.wait({exited}, timeout=_POLL_S)
        return False

    async def _drain(self, shutdown: Shutdown) -> None:
        self._stopping.set()
        self._set_state("draining")
        for tiers in _DRAIN_ORDER:
            children = [child for child in self._children.values() if child.plan.tier in tiers]
            for child in children:
                if child.send(signal.SIGTERM):
                    self._set_process(child, "stopping")
            gone = asyncio.gather(*(child.wait() for child in children))
            # A deployment that failed has nobody to wait for.
            limit = _FORCED_EXIT_S if self._failed.is_set() else self._plan.drain_timeout_s + _EXIT_SLACK_S
            if not await shutdown.drained(_result(gone), limit):
                await self._force(children)

    async def _force(self, children: Sequence[_Child]) -> None:
        running = [child for child in children if child.send(signal.SIGTERM)]
        if running:
            self._report(Event("", f"forcing {', '.join(child.plan.name for child in running)} to stop"))
            await asyncio.wait({asyncio.ensure_future(child.wait()) for child in running}, timeout=_FORCED_EXIT_S)
        await asyncio.gather(*(child.kill() for child in children))

    def _fail(self, reason: str, child: _Child) -> None:
        if self._failed.is_set() or self._stopping.is_set():
            return
        self._reason = reason
        self._failed.set()
        self._report(Event("", f"{reason}; its last lines ({child.log}):", child.last_lines()))

    def _set_process(self, child: _Child, state: ProcessState) -> None:
        child.state = state
        if self._state in ("ready", "degraded"):
            whole = all(c.state == "ready" for c in self._children.values())
            self._state = "ready" if whole else "degraded"
        self._write()

    def _set_state(self, state: DeploymentState) -> None:
        self._state = state
        self._write()

    def _write(self) -> None:
        plan = self._plan
        self._deployment.write(
            DeploymentRecord(
                name=plan.name,
                model=plan.model,
                path=plan.path,
                http=plan.http,
                grpc=plan.grpc,
                drain_timeout_s=plan.drain_timeout_s,
                state=self._state,
                reason=self._reason,
                supervisor=self._identity,
                processes=tuple(child.record() for child in self._children.values()),
            )
        )


class _Child:
    """One process and its log."""

    def __init__(self, plan: ProcessPlan, log: Path, secrets: Mapping[str, str]) -> None:
        self.plan = plan
        self._secrets = secrets
        self.log = log
        self.state: ProcessState = "starting"
        self.ready = asyncio.Event()
        self.restarts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._log_began = 0

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._log_began = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *self.plan.arguments,
                cwd=PACKAGE_ROOT,
                env={**os.environ, **self._secrets, **self.plan.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal goes to the whole process group; who stops when is decided here.
                start_new_session=True,
            )
        self._identity = identify(self._process.pid)

    async def wait(self) -> int:
        """Waits for the exit; 0 if it never started."""
        return await self._process.wait() if self._process is not None else 0

    def send(self, number: signal.Signals) -> bool:
        """Sends a signal unless the process is gone. Returns whether it was sent."""
        if self._process is None or self._process.returncode is not None:
            return False
        try:
            self._process.send_signal(number)
        except ProcessLookupError:
            return False
        return True

    async def kill(self) -> None:
        """Ends the process at once, if it still runs."""
        if self.send(signal.SIGKILL):
            await self.wait()

    def says_ready(self, announces: bool) -> bool:
        """Whether this process is known to be ready: behind a shared port only its own log can tell."""
        if not (self.plan.shared and announces):
            return True
        with self.log.open("rb") as log:
            log.seek(self._log_began)
            text = log.read()
        return b'"event": "ready"' in text or b" router ready " in text

    def last_lines(self) -> list[str]:
        """What the log ends with."""
        return last_lines(self.log, _SHOWN_LINES)

    def record(self) -> ProcessRecord:
        """The process as other commands see it."""
        return ProcessRecord(
            name=self.plan.name,
            tier=self.plan.tier,
            address=self.plan.probe,
            state=self.state,
            identity=self._identity if self._process is not None else None,
            restarts=self.restarts,
        )


async def _result(future: asyncio.Future[list[int]]) -> None:
    await future


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
