"""Keeps a deployment's processes running: starts them, waits until they are ready, restarts what dies, drains.

One task per process owns it from start to end. A process that dies before its first readiness ends the deployment,
since it would die again. One that dies later is restarted, for as long as it takes, with growing pauses, while
the others go on serving. A process that no longer answers is ended, and so restarted.

What is written to disk is for other commands only. Where it cannot be written, supervision goes on all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from qwenserve.cli.child import Child, Instance, ending
from qwenserve.cli.local_store import ask_store
from qwenserve.cli.plan import DeploymentPlan, Tier
from qwenserve.cli.processes import ProcessIdentity, alive, identify
from qwenserve.cli.readiness import Health, ask_health, is_http_ready
from qwenserve.cli.restarts import RestartPolicy
from qwenserve.cli.state import Deployment, DeploymentRecord, DeploymentState, ProcessRecord, ProcessState
from qwenserve.runtime.config import ConfigError
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.lifecycle import Shutdown, TaskOwner

_POLL_S = 0.1
_HEALTH_EVERY_S = 2.0
# How often a record that could not be written is tried again.
_WRITE_AGAIN_S = 5.0
# Beyond the configured drain time: for a process to notice the signal, end its streams and exit.
_EXIT_SLACK_S = 10.0
_FORCED_EXIT_S = 5.0
# Routers ask for a worker that was away every two seconds.
_FOUND_AGAIN_S = 30.0
# By this name a router's health check says whether it can use every worker.
ALL_WORKERS = "all-workers"

# Routers first: while they finish their answers, workers and tokenizers must still be there. All of them say in the
# store that they go.
_DRAIN_ORDER: Sequence[Sequence[Tier]] = (("router",), ("worker", "tokenizer"), ("store",))


class Event(NamedTuple):
    """Something worth telling: about a process, or about the deployment when `process` is empty."""

    process: str
    text: str
    lines: Sequence[str] = ()


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
        self._show = report
        self._restarts = restarts
        self._children = {
            process.name: Child(process, deployment.log_file(process.name), plan.secrets) for process in plan.processes
        }
        self._state: DeploymentState = "starting"
        self._reason = ""
        self._written = True
        self._stopping = asyncio.Event()
        self._failed = asyncio.Event()
        self._restart_all = asyncio.Event()
        self.ready = asyncio.Event()
        self._identity = identify(os.getpid())

    @property
    def record(self) -> DeploymentRecord:
        """What runs, as other commands see it."""
        plan = self._plan
        return DeploymentRecord(
            name=plan.name,
            model=plan.model,
            path=plan.path,
            http=plan.http,
            grpc=plan.grpc,
            tls=plan.tls,
            drain_timeout_s=plan.drain_timeout_s + plan.drain_notice_s,
            state=self._state,
            reason=self._reason,
            supervisor=self._identity,
            processes=tuple(child.record() for child in self._children.values()),
        )

    async def _answers_http(self) -> bool:
        try:
            return await is_http_ready(self._plan.http, self._plan.tls)
        except ConfigError:  # certificates that are being replaced
            return False

    def request_restart(self) -> None:
        """Asks for a new process in every place, one after the other; nothing that is under way is lost."""
        self._restart_all.set()

    async def run(self, shutdown: Shutdown) -> int:
        """Runs until `shutdown` asks for a drain, or it cannot go on. Returns the exit code."""
        tasks = TaskOwner()
        try:
            await self._take_over_what_lives(shutdown)
            self._write()
            tasks.start(self._write_again(), name="record")
            for child in self._children.values():
                tasks.start(self._keep(child), name=child.plan.name)
            if await self._first(self._all_ready(), shutdown):
                self._state = "ready"
                self._note_state()
                self._write()
                self.ready.set()
                tasks.start(self._restart_when_asked(), name="rolling restart")
                await self._first(asyncio.Event().wait(), shutdown)
            await self._drain(shutdown)
        finally:
            await tasks.close()
            await asyncio.gather(*(child.kill() for child in self._children.values()))
            if not self._failed.is_set():
                self._forget()
        if self._failed.is_set():
            self._set_state("failed")
            return 1
        return 0

    async def _take_over_what_lives(self, shutdown: Shutdown) -> None:
        """Adopts processes that an earlier supervisor of this deployment left, and ends those that differ."""
        left = self._deployment.read()
        if left is None or left.supervisor.alive:
            return
        others: list[tuple[ProcessRecord, ProcessIdentity]] = []
        for record in left.processes:
            if record.identity is None or not record.identity.alive:
                continue
            child = self._children.get(record.name)
            if child is not None and child.settings == record.settings:
                child.take_over(record, record.identity)
                self._report(Event(record.name, f"taken over (pid {record.identity.pid}): its supervisor was gone"))
            else:
                others.append((record, record.identity))
        for tiers in _DRAIN_ORDER:
            ending_now = [(record, identity) for record, identity in others if record.tier in tiers]
            for record, identity in ending_now:
                text = f"an earlier one (pid {identity.pid}) has other settings, or no place any more; it is drained"
                self._report(Event(record.name, text))
                identity.send(signal.SIGTERM)
            identities = [identity for _, identity in ending_now]
            if not await shutdown.drained(_until_gone(identities), left.drain_timeout_s + _EXIT_SLACK_S):
                for identity in alive(identities):
                    identity.send(signal.SIGKILL)
                await within(_FORCED_EXIT_S, _until_gone(identities))

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
            await within(self._plan.start_timeout_s, self._until_ready())
        except asyncio.TimeoutError:
            children = list(self._children.values())
            # With every process ready it is the HTTP API, served by the routers, that is not.
            late = [child for child in children if not child.ready.is_set()] or children[-1:]
            names = ", ".join(child.plan.name for child in late)
            self._fail(f"not ready after {self._plan.start_timeout_s:g} s: {names}", late[0])

    async def _until_ready(self) -> None:
        await asyncio.gather(*(child.ready.wait() for child in self._children.values()))
        while self._plan.http and not await self._answers_http():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(_POLL_S)

    async def _keep(self, child: Child) -> None:
        try:
            await self._keep_running(child)
        except Exception as error:  # nobody awaits this task: what it cannot handle must not pass unseen
            self._set_process(child, "failed")
            self._fail(f"{child.plan.name}: {error!r}", child)

    async def _keep_running(self, child: Child) -> None:
        policy = self._restarts()
        while not self._stopping.is_set():
            known = child.current is not None or child.ready.is_set()
            began = time.monotonic()
            try:
                instance = child.current or await child.start()
            except OSError as error:  # such as too many processes; the next try may find room
                if not known:
                    raise
                self._report(Event(child.plan.name, f"cannot be started: {error}"))
                await asyncio.sleep(policy.next_delay(0.0))
                continue
            child.current = instance
            self._set_process(child, "starting")
            if await self._becomes_ready(child, instance, known=known):
                child.ready.set()
                self._set_process(child, "ready")
                self._report(Event(child.plan.name, f"ready after {time.monotonic() - began:.1f} s"))
            began = time.monotonic()
            code = await self._until_ended(child)
            child.current = None
            if self._stopping.is_set():
                self._set_process(child, "stopped")
                return
            if not (known or child.ready.is_set()):
                self._set_process(child, "failed")
                self._fail(f"{child.plan.name} ended ({ending(code)})", child)
                return
            served_s = time.monotonic() - began if child.state == "ready" else 0.0
            await self._pause(child, policy, served_s, code)

    async def _pause(self, child: Child, policy: RestartPolicy, served_s: float, code: int | None) -> None:
        asked = served_s > 0 and (child.asked or code in (0, -signal.SIGTERM))
        delay = policy.next_delay(served_s, asked=asked)
        child.restarts += 1
        self._set_process(child, "restarting")
        if asked:
            self._report(Event(child.plan.name, f"ended as it was told to ({ending(code)}); restart {child.restarts}"))
        else:
            text = f"ended ({ending(code)}); restart {child.restarts} in {delay:g} s; its last lines:"
            self._report(Event(child.plan.name, text, child.last_lines()))
        child.asked = False
        await asyncio.sleep(delay)

    async def _becomes_ready(self, child: Child, instance: Instance, *, known: bool) -> bool:
        """Waits until a process serves; False if it ended. One that has served before gets a limit, and is ended."""
        exited = asyncio.ensure_future(instance.handle.wait())
        deadline = time.monotonic() + self._plan.start_timeout_s
        try:
            while not exited.done():
                if await _health(child, instance) is Health.SERVING:
                    return True
                if known and time.monotonic() > deadline:
                    instance.handle.send(signal.SIGKILL)
                await asyncio.wait({exited}, timeout=_POLL_S)
            return False
        finally:
            exited.cancel()

    async def _until_ended(self, child: Child) -> int | None:
        """Returns the exit code of the process that fills this place at the end; ends one that hangs."""
        while True:
            instance = child.current
            assert instance is not None
            exited = asyncio.ensure_future(instance.handle.wait())
            watching = asyncio.ensure_future(self._until_hung(child, instance))
            try:
                await asyncio.wait({exited, watching}, return_when=asyncio.FIRST_COMPLETED)
                if not exited.done() and not self._stopping.is_set():
                    self._report(Event(child.plan.name, f"{watching.result()}; it is ended and started again"))
                    instance.handle.send(signal.SIGKILL)
                code = await exited
            finally:
                exited.cancel()
                watching.cancel()
                await asyncio.gather(exited, watching, return_exceptions=True)
            if child.current is instance:
                return code

    async def _until_hung(self, child: Child, instance: Instance) -> str:
        """Returns what is wrong once a process has not answered, or not served, for too long."""
        # A process that hangs accepts connections and does not answer. One that drains says that it does not serve, or
        # no longer listens; and a router does not serve while it has no worker, which is not its fault.
        drain_s = self._plan.drain_timeout_s + self._plan.drain_notice_s + _EXIT_SLACK_S
        answered = served = time.monotonic()
        while True:
            await asyncio.sleep(_HEALTH_EVERY_S)
            health = await _health(child, instance)
            now = time.monotonic()
            if health is not Health.SILENT:
                answered = now
            blameless = child.plan.tier == "router" and health is Health.NOT_SERVING
            if health is Health.SERVING or blameless or child.state != "ready":
                served = now
            if now - answered > self._plan.health_timeout_s:
                return f"has answered no health check for {now - answered:.0f} s"
            if now - served > self._plan.health_timeout_s + drain_s:
                return f"has not served for {now - served:.0f} s"

    async def _restart_when_asked(self) -> None:
        while True:
            await self._restart_all.wait()
            self._restart_all.clear()
            self._report(Event("", "rolling restart: one process after the other"))
            for child in self._children.values():
                if child.state != "ready":
                    continue  # it is being started anyway
                await (self._exchange(child) if child.plan.shared else self._renew(child))
            self._report(Event("", "rolling restart: done"))

    async def _renew(self, child: Child) -> None:
        """Drains a process; whoever keeps it starts the next one. The others of its tier serve meanwhile."""
        restarts = child.restarts
        child.asked = True
        child.send(signal.SIGTERM)
        while child.restarts == restarts or child.state != "ready":  # noqa: ASYNC110 - changed by another task
            await asyncio.sleep(_POLL_S)
        await self._until_found()

    async def _until_found(self) -> None:
        """Waits, within a limit, until all routers use every worker: before that, no further worker may be replaced."""
        deadline = time.monotonic() + _FOUND_AGAIN_S
        routers = [child for child in self._children.values() if child.plan.tier == "router"]
        for child in routers:
            while child.current is not None and time.monotonic() < deadline:
                if await ask_health(child.current.probe, ALL_WORKERS) is Health.SERVING:
                    break
                await asyncio.sleep(_POLL_S)

    async def _exchange(self, child: Child) -> None:
        """Starts a second process on the shared ports, and drains the first one when the second serves."""
        old = child.current
        try:
            new = await child.start()
        except OSError as error:
            self._report(Event(child.plan.name, f"no second process can be started: {error}"))
            return
        try:
            serves = await self._becomes_ready(child, new, known=True)
        except BaseException:
            new.handle.send(signal.SIGKILL)
            raise
        if not serves or old is None or child.current is not old:
            new.handle.send(signal.SIGKILL)
            await new.handle.wait()
            self._report(Event(child.plan.name, "the second process did not serve; the first goes on"))
            return
        child.current = new
        child.restarts += 1
        self._write()
        old.handle.send(signal.SIGTERM)
        limit = self._plan.drain_timeout_s + self._plan.drain_notice_s + _EXIT_SLACK_S
        try:
            await within(limit, asyncio.shield(asyncio.ensure_future(old.handle.wait())))
        finally:
            old.handle.send(signal.SIGKILL)

    async def _drain(self, shutdown: Shutdown) -> None:
        self._stopping.set()
        self._set_state("draining")
        for tiers in _DRAIN_ORDER:
            children = [child for child in self._children.values() if child.plan.tier in tiers]
            for child in children:
                if child.send(signal.SIGTERM):
                    self._set_process(child, "stopping")
            gone = asyncio.gather(*(child.wait() for child in children))
            # In a deployment that failed there is nothing to wait for.
            patience = self._plan.drain_timeout_s + self._plan.drain_notice_s + _EXIT_SLACK_S
            limit = _FORCED_EXIT_S if self._failed.is_set() else patience
            if not await shutdown.drained(_result(gone), limit):
                await self._force(children)

    async def _force(self, children: Sequence[Child]) -> None:
        running = [child for child in children if child.send(signal.SIGTERM)]
        if running:
            self._report(Event("", f"forcing {', '.join(child.plan.name for child in running)} to stop"))
            await asyncio.wait({asyncio.ensure_future(child.wait()) for child in running}, timeout=_FORCED_EXIT_S)
        await asyncio.gather(*(child.kill() for child in children))

    def _fail(self, reason: str, child: Child) -> None:
        if self._failed.is_set() or self._stopping.is_set():
            return
        self._reason = reason
        self._failed.set()
        self._report(Event("", f"{reason}; its last lines ({child.log}):", child.last_lines()))

    def _set_process(self, child: Child, state: ProcessState) -> None:
        child.state = state
        self._note_state()
        self._write()

    def _note_state(self) -> None:
        if self._state in ("ready", "degraded"):
            whole = all(child.state == "ready" for child in self._children.values())
            self._state = "ready" if whole else "degraded"

    def _set_state(self, state: DeploymentState) -> None:
        self._state = state
        self._write()

    def _report(self, event: Event) -> None:
        with contextlib.suppress(OSError):  # the output is closed or the disk is full: the processes matter more
            self._show(event)

    def _write(self) -> None:
        try:
            self._deployment.write(self.record)
        except OSError as error:
            if self._written:
                text = f"cannot write to {self._deployment.folder} ({error.strerror}); serving goes on"
                self._report(Event("", f"{text}, but other commands see an old state"))
            self._written = False
        else:
            self._written = True

    async def _write_again(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_AGAIN_S)
            if not self._written:
                self._write()

    def _forget(self) -> None:
        try:
            self._deployment.forget()
        except OSError as error:
            self._report(Event("", f"cannot remove the record in {self._deployment.folder}: {error.strerror}"))


async def _health(child: Child, instance: Instance) -> Health:
    return await (ask_store(instance.probe) if child.plan.tier == "store" else ask_health(instance.probe))


async def _until_gone(identities: Sequence[ProcessIdentity]) -> None:
    while alive(identities):  # noqa: ASYNC110 - other processes' state
        await asyncio.sleep(_POLL_S)


async def _result(future: asyncio.Future[list[None]]) -> None:
    await future
