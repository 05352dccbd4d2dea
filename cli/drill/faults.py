"""What a drill does to a deployment. Each fault returns once the deployment is whole again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import aiohttp

from qwenserve.cli.drill.load import PROMPTS, Failure, Target, client_session, read_answer
from qwenserve.cli.drill.ranks import ranks_of
from qwenserve.cli.errors import CommandError
from qwenserve.cli.local_store import command
from qwenserve.cli.output import Output
from qwenserve.cli.plan import Tier
from qwenserve.cli.processes import ProcessIdentity
from qwenserve.cli.restart import restart
from qwenserve.cli.state import DeploymentRecord, ProcessRecord, StateDirectory
from qwenserve.runtime.deadlines import within

_POLL_S = 0.1
_WHOLE_S = 300.0
# A worker that has this share of its time is slow, and alive.
_SLOW_RUN_S, _SLOW_STOP_S = 0.02, 0.08
# Ten times as long as requests wait for a store by default.
_LATE_S = 0.5
# Every kept value becomes one of two lies: no value at all, and one that begins as ours do.
_LIE = """
for n, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('TYPE', key).ok == 'string' then
    redis.call('SET', key, n % 2 == 0 and 'lies' or 'qsv\\1' .. string.rep('\\0', 60))
  end
end
return 1
"""
# How long a stream that nobody reads is kept.
_UNREAD_S = 30.0
_GARBAGE_BYTES = 4096
_GARBAGE_S = 10.0


class Bench(NamedTuple):
    """What a fault is given."""

    state: StateDirectory
    name: str
    target: Target
    # How often a fault is repeated, and how long one lasts that has no end of its own.
    times: int
    seconds: float
    clients: int
    # Where set, processes are harmed so often, for so many seconds in all, whether they were replaced meanwhile or not.
    every_s: float | None = None
    for_s: float = 60.0
    # When each fault was, on `time.monotonic()`'s clock.
    faults: list[float] = []  # noqa: RUF012  # given by whoever makes one

    def record(self) -> DeploymentRecord:
        """What runs now. Raises CommandError where that has ended."""
        return self.state.find(self.name)

    def of_tier(self, tier: Tier) -> list[ProcessRecord]:
        """The processes of a tier that are ready."""
        return [p for p in self.record().processes if p.tier == tier and p.state == "ready" and p.running]

    async def tell_store(self, *words: str) -> None:
        """Sends a command to the deployment's own store. Raises CommandError."""
        password = self.state.deployment(self.name).token("store-password")
        await command(self.of_tier("store")[0].address, password, *words)

    async def until_whole(self, gone: ProcessRecord | None = None) -> None:
        """Waits until every process is ready, and `gone` has been replaced by another process."""
        deadline = time.monotonic() + _WHOLE_S
        while not _is_whole(self.record(), gone):
            if time.monotonic() > deadline:
                raise CommandError(f"{self.name} was not whole again within {_WHOLE_S:g} s")
            await asyncio.sleep(_POLL_S)


def _is_whole(record: DeploymentRecord, gone: ProcessRecord | None) -> bool:
    renewed = gone is None or all(p.identity != gone.identity for p in record.processes)
    return renewed and record.shown_state == "ready"


Fault = Callable[[Bench], Awaitable[None]]


def _signal(tier: Tier, number: signal.Signals, *, least: int = 1) -> Fault:
    """Harms processes of a tier in turn. In a steady beat one is spared while fewer than `least` are ready."""

    async def once(bench: Bench) -> None:
        for turn in range(bench.times):
            victim = _harmed(bench, tier, number, turn, 1)
            assert victim is not None
            try:
                await bench.until_whole(victim)
            finally:
                _go_on(victim)

    async def again_and_again(bench: Bench, every_s: float) -> None:
        victims: list[ProcessRecord] = []
        began = time.monotonic()
        try:
            for turn in range(1 + int(bench.for_s / every_s)):
                await asyncio.sleep(began + turn * every_s - time.monotonic())
                if victim := _harmed(bench, tier, number, turn, least):
                    victims.append(victim)
            for victim in victims:
                await bench.until_whole(victim)
        finally:
            for victim in victims:
                _go_on(victim)

    async def run(bench: Bench) -> None:
        await (once(bench) if bench.every_s is None else again_and_again(bench, bench.every_s))

    return run


def _harmed(bench: Bench, tier: Tier, number: signal.Signals, turn: int, least: int) -> ProcessRecord | None:
    """Sends a signal to the next process of a tier; returns it. None where fewer than `least` are ready now."""
    processes = bench.of_tier(tier)
    if len(processes) < least:
        return None
    victim = processes[turn % len(processes)]
    assert victim.identity is not None
    victim.identity.send(number)
    bench.faults.append(time.monotonic())
    return victim


def _go_on(victim: ProcessRecord) -> None:
    """Continues a stopped process that was not replaced."""
    if victim.identity is not None:
        victim.identity.send(signal.SIGCONT)


async def _kill_rank(bench: Bench) -> None:
    """Kills the last rank of each worker in turn; the whole worker is then replaced."""
    for turn in range(bench.times):
        victims = [worker for worker in bench.of_tier("worker") if ranks_of_record(worker)]
        victim = victims[turn % len(victims)]
        ranks_of_record(victim)[-1].send(signal.SIGKILL)
        await bench.until_whole(victim)


def ranks_of_record(process: ProcessRecord) -> list[ProcessIdentity]:
    """Returns the MPI ranks of a worker; none where it computes alone."""
    return ranks_of(process.identity.pid) if process.identity is not None else []


def _slow(tier: Tier, stop_s: float, run_s: float) -> Fault:
    async def run(bench: Bench) -> None:
        identity = bench.of_tier(tier)[0].identity
        assert identity is not None
        deadline = time.monotonic() + bench.seconds
        try:
            while time.monotonic() < deadline and identity.send(signal.SIGSTOP):
                await asyncio.sleep(stop_s)
                identity.send(signal.SIGCONT)
                await asyncio.sleep(run_s)
        finally:
            identity.send(signal.SIGCONT)
        await bench.until_whole()

    return run


async def _full_store(bench: Bench) -> None:
    """Gives the store no room, first without eviction and then with it."""
    for policy in ("noeviction", "allkeys-lru"):
        await bench.tell_store("CONFIG", "SET", "maxmemory-policy", policy)
        await bench.tell_store("CONFIG", "SET", "maxmemory", "1")
        await asyncio.sleep(bench.seconds / 2)
    # What it was started with holds again in its next process.
    await _signal("store", signal.SIGTERM)(bench._replace(times=1))


def _telling_store(*words: str) -> Fault:
    """Sends a command to the store again and again."""

    async def run(bench: Bench) -> None:
        deadline = time.monotonic() + bench.seconds
        while time.monotonic() < deadline:
            await bench.tell_store(*words)
            await asyncio.sleep(_POLL_S)
        await bench.tell_store("FLUSHALL")
        await bench.until_whole()

    return run


async def _slow_reader(bench: Bench) -> None:
    """Opens streams and reads nothing of them; opens others in their place every so often."""
    deadline = time.monotonic() + bench.seconds
    while (left := deadline - time.monotonic()) > 0:
        async with client_session(bench.target) as http, contextlib.AsyncExitStack() as stack:
            for number in range(bench.clients):
                body = bench.target.body(PROMPTS[number % len(PROMPTS)])
                with contextlib.suppress(aiohttp.ClientError):  # how these streams end is not part of the verdict
                    await stack.enter_async_context(
                        http.post(f"{bench.target.url}/v1/chat/completions", json=body, headers=bench.target.headers())
                    )
            await asyncio.sleep(min(left, _UNREAD_S))


async def _overload(bench: Bench) -> None:
    """Asks from many times as many clients at once. They may be refused with a time to wait, and nothing else."""

    async def ask(http: aiohttp.ClientSession, number: int) -> None:
        try:
            await read_answer(http, bench.target, PROMPTS[number % len(PROMPTS)])
        except Failure as failure:
            if not failure.refused:
                raise CommandError(f"a client beyond the limit saw {failure}") from None

    async with client_session(bench.target) as http:
        await asyncio.gather(*(ask(http, number) for number in range(20 * bench.clients)))


async def _rolling_restart(bench: Bench) -> None:
    """Replaces every process in turn."""
    await asyncio.to_thread(restart, bench.state, bench.record(), Output(to_stderr=True))


async def _disconnects(bench: Bench) -> None:
    """Leaves in the middle of answers, again and again."""

    async def leave(http: aiohttp.ClientSession, number: int) -> None:
        body = bench.target.body(PROMPTS[number % len(PROMPTS)])
        with contextlib.suppress(aiohttp.ClientError):
            async with http.post(
                f"{bench.target.url}/v1/chat/completions", json=body, headers=bench.target.headers()
            ) as response:
                await response.content.readany()
                response.close()

    async with client_session(bench.target) as http:
        for _ in range(5 * bench.times):
            await asyncio.gather(*(leave(http, number) for number in range(bench.clients)))


async def _bad_bytes(bench: Bench) -> None:
    """Sends bytes that mean nothing to both public ports; each connection must be answered or ended."""
    record = bench.record()

    async def send(address: str) -> None:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(os.urandom(_GARBAGE_BYTES) + b"\r\n\r\n")
                await writer.drain()
                while await within(_GARBAGE_S, reader.read(_GARBAGE_BYTES)):
                    pass
        except asyncio.TimeoutError:
            raise CommandError(f"{address} kept a connection that sent nothing but noise") from None
        finally:
            writer.close()

    for _ in range(5 * bench.times):
        await asyncio.gather(*(send(address) for address in (record.http, record.grpc)))


class Drill(NamedTuple):
    """One kind of fault, and what clients may see of it."""

    fault: Fault
    # The tier that is hit, and how many processes it must have for the drill to make sense.
    tier: Tier | None = None
    least: int = 1
    # Whether an answer that had begun may be lost, because the process that held its connection is gone.
    loses_begun: bool = False
    # Whether it takes workers of several MPI ranks.
    ranks: bool = False


DRILLS: Mapping[str, Drill] = {
    "kill-worker": Drill(_signal("worker", signal.SIGKILL), "worker"),
    "stop-worker": Drill(_signal("worker", signal.SIGSTOP), "worker"),
    "kill-rank": Drill(_kill_rank, "worker", ranks=True),
    "slow-worker": Drill(_slow("worker", _SLOW_STOP_S, _SLOW_RUN_S), "worker"),
    "kill-router": Drill(_signal("router", signal.SIGKILL, least=2), "router", least=2, loses_begun=True),
    "kill-tokenizer": Drill(_signal("tokenizer", signal.SIGKILL), "tokenizer"),
    "stop-tokenizer": Drill(_signal("tokenizer", signal.SIGSTOP), "tokenizer"),
    "redis-down": Drill(_signal("store", signal.SIGKILL), "store"),
    "redis-slow": Drill(_slow("store", _LATE_S, _SLOW_RUN_S), "store"),
    "redis-full": Drill(_full_store, "store"),
    "redis-flush": Drill(_telling_store("FLUSHALL"), "store"),
    "redis-lies": Drill(_telling_store("EVAL", _LIE, "0"), "store"),
    "slow-reader": Drill(_slow_reader),
    "overload": Drill(_overload),
    "rolling-restart": Drill(_rolling_restart),
    "disconnects": Drill(_disconnects),
    "bad-bytes": Drill(_bad_bytes),
}
