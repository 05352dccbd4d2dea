"""What a supervisor does when processes die, hang or are replaced, and when it cannot write."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from qwenserve.cli.options import setting_texts
from qwenserve.cli.plan import Addresses, Counts, make_plan
from qwenserve.cli.ports import Endpoint, free_endpoints
from qwenserve.cli.restarts import RestartPolicy
from qwenserve.cli.state import Deployment, ProcessRecord, replace_text
from qwenserve.cli.supervisor import Event, Supervisor
from qwenserve.runtime.config import load_config
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.worker.engine_choice import engine_settings
from tests.cli.conftest import ROOT

pytestmark = pytest.mark.timeout(240)

LIMIT_S = 60.0
HOST = "127.0.0.1"


class Supervised(NamedTuple):
    """A deployment whose supervisor runs in the test."""

    supervisor: Supervisor
    deployment: Deployment
    events: list[Event]
    url: str

    def process(self, name: str) -> ProcessRecord:
        return next(p for p in self.supervisor.record.processes if p.name == name)

    def pid(self, name: str) -> int:
        identity = self.process(name).identity
        assert identity is not None
        return identity.pid

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for a condition that other processes bring about."""
        deadline = asyncio.get_running_loop().time() + LIMIT_S
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, f"not within {LIMIT_S:g} s: {what}\n{self.events}"
            await asyncio.sleep(0.02)

    async def until_renewed(self, name: str, pid: int) -> None:
        """Waits until another process than `pid` fills a place, and serves."""
        await self.until(
            lambda: self.process(name).state == "ready" and self.pid(name) != pid, f"{name} is another process"
        )

    async def until_answered(self) -> None:
        """Waits until a question is answered: a router hears of a worker that is back a moment later."""
        deadline = asyncio.get_running_loop().time() + LIMIT_S
        while await ask(self.url) != 200:
            assert asyncio.get_running_loop().time() < deadline, "no answer"

    def told(self, text: str) -> bool:
        return any(text in event.text for event in self.events)


async def ask(url: str) -> int:
    """Asks one question over a connection of its own; returns the status."""
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=body) as response:
        text = await response.text()
        if response.status != 200:
            print(response.status, text)  # shown beside a failure
        return response.status


async def ask_twice(url: str) -> int:
    """Asks once more where a connection came to the listener of a router that was just closing it."""
    try:
        return await ask(url)
    except aiohttp.ClientError:
        return await ask(url)


@contextlib.asynccontextmanager
async def supervised(
    folder: Path, counts: Counts, *, restarts: Callable[[], RestartPolicy] = RestartPolicy, **settings: object
) -> AsyncIterator[Supervised]:
    overrides = setting_texts(
        {
            "model.reference": str(ROOT / "models" / "qwen3-tiny"),
            "worker.engine": "simulated",
            "worker.simulated.step_ms": 0,
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
    )
    config = load_config(environment={}, overrides=overrides, engines=engine_settings()).config
    http, grpc, *rest = free_endpoints(HOST, 2 + counts.workers + counts.tokenizers)
    addresses = Addresses(http, grpc, rest[: counts.workers], rest[counts.workers :])
    plan = make_plan(
        config, name="x", path="x", counts=counts, addresses=addresses, config_file=None, overrides=overrides
    )
    deployment = Deployment(folder / "x")
    deployment.prepare()
    events: list[Event] = []
    supervisor = Supervisor(plan, deployment, events.append, restarts=restarts)
    shutdown = Shutdown()
    running = asyncio.ensure_future(supervisor.run(shutdown))
    try:
        await asyncio.wait_for(supervisor.ready.wait(), LIMIT_S)
        yield Supervised(supervisor, deployment, events, f"http://{Endpoint(*http)}")
    finally:
        shutdown.request()
        assert await asyncio.wait_for(running, LIMIT_S) == 0


@pytest.mark.long
async def test_one_of_two_workers_may_die_for_ever(tmp_path: Path):
    """Nothing else is stopped, the other worker answers, and the one that dies is tried again each time."""
    policy = lambda: RestartPolicy(first_s=0, longest_s=0)  # noqa: E731
    async with supervised(tmp_path, Counts(2, 1, 0), restarts=policy) as it:
        others = [it.pid("worker-1"), it.pid("router-0")]
        for _ in range(7):
            pid = it.pid("worker-0")
            os.kill(pid, signal.SIGKILL)
            await it.until(lambda: it.supervisor.record.state == "degraded", "degraded")
            await it.until_renewed("worker-0", pid)

        assert await ask(it.url) == 200
        assert (it.supervisor.record.state, it.process("worker-0").restarts) == ("ready", 7)
        assert [it.pid("worker-1"), it.pid("router-0")] == others


async def test_a_worker_that_stays_away_leaves_a_degraded_deployment(tmp_path: Path):
    """While one place is empty, what lives serves, and the record says so."""
    policy = lambda: RestartPolicy(first_s=3600, longest_s=3600)  # noqa: E731
    async with supervised(tmp_path, Counts(2, 1, 0), restarts=policy) as it:
        os.kill(it.pid("worker-0"), signal.SIGKILL)
        await it.until(lambda: it.process("worker-0").state == "restarting", "it is noticed")

        assert await ask(it.url) == 200
        record = it.deployment.read()
        assert record is not None
        assert record.shown_state == "degraded 2/3"
        async with aiohttp.ClientSession() as session, session.get(f"{it.url}/readyz") as response:
            assert response.status == 200


async def test_an_operators_signal_is_no_death(tmp_path: Path):
    """A worker told to end by hand is started again, and nothing is counted against it."""
    async with supervised(tmp_path, Counts(1, 1, 0)) as it:
        pid = it.pid("worker-0")
        os.kill(pid, signal.SIGTERM)
        await it.until_renewed("worker-0", pid)

        assert it.told("ended as it was told to")
        await it.until_answered()


@pytest.mark.long
async def test_supervision_does_not_depend_on_writing(tmp_path: Path):
    """With its folder gone a worker still comes back; it is said once, and made good when there is a folder again."""
    async with supervised(tmp_path, Counts(1, 1, 0)) as it:
        shutil.rmtree(it.deployment.folder)
        pid = it.pid("worker-0")
        os.kill(pid, signal.SIGKILL)
        await it.until_renewed("worker-0", pid)
        await it.until_answered()

        assert sum("cannot write to" in event.text for event in it.events) == 1
        it.deployment.prepare()
        await it.until(lambda: it.deployment.read() == it.supervisor.record, "the record is written again")


@pytest.mark.long
async def test_a_supervisor_that_nobody_reads_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What it says may fail, such as on a full disk; processes are kept all the same."""

    async with supervised(tmp_path, Counts(1, 1, 0)) as it:

        def full(_: Event) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(it.supervisor, "_show", full)
        pid = it.pid("worker-0")
        os.kill(pid, signal.SIGKILL)
        await it.until_renewed("worker-0", pid)


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path):
    """A record that cannot be written must not fill the disk with halves of it."""
    (tmp_path / "record.json").mkdir()

    with pytest.raises(OSError, match=r"record\.json"):
        replace_text(tmp_path / "record.json", "text")

    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["worker-0", "tokenizer-0", "router-1"])
async def test_a_process_that_hangs_is_replaced(tmp_path: Path, name: str):
    """A stopped process is alive and answers nothing; behind a shared port, too, it is the one that is found."""
    async with supervised(tmp_path, Counts(2, 2, 1), health_timeout_s=10) as it:
        pid = it.pid(name)
        os.kill(pid, signal.SIGSTOP)
        await it.until_renewed(name, pid)

        assert it.told("has answered no health check")
        await it.until(lambda: it.supervisor.record.state == "ready", "all are ready")


@pytest.mark.long
async def test_a_rolling_restart_loses_nothing(tmp_path: Path):
    """Every process is another one afterwards, and clients that try twice saw no failure."""
    async with supervised(tmp_path, Counts(2, 2, 1)) as it:
        before = {p.name: it.pid(p.name) for p in it.supervisor.record.processes}
        it.supervisor.request_restart()
        statuses: list[int] = []
        while not it.told("rolling restart: done"):
            statuses.append(await ask_twice(it.url))

        assert set(statuses) == {200}
        after = {p.name: it.pid(p.name) for p in it.supervisor.record.processes}
        assert set(before) == set(after)
        assert not set(before.values()) & set(after.values())
        assert it.supervisor.record.state == "ready"
