"""Routers and workers that find each other through a real store, whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.cli.main import main
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.main import Router
from qwenserve.runtime.config import Config
from qwenserve.runtime.grpc_setup import make_channel
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.tokenizer_svc.announce import announced as announced_tokenizer
from tests.store.servers import Proxy, RedisServer, running_redis, why_none
from tests.system.requests import chat
from tests.system.stack import TINY, RunningWorker, stack_config, start_worker, until

pytestmark = pytest.mark.skipif(bool(why_none()), reason=why_none() or "-")

LIMIT_S = 40.0


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with running_redis() as started:
        yield started


def config_of(url: str, **more: Any) -> Config:
    return stack_config(store__url=url, store__prefix="t", store__lease_s=0.5, **more)


@contextlib.asynccontextmanager
async def routed(config: Config) -> AsyncIterator[Router]:
    router = Router(config, ServedModel.load(TINY, config))
    async with router.serving(Shutdown()):
        yield router


async def worker_named(config: Config, name: str) -> RunningWorker:
    own = config.model_copy(update={"worker": config.worker.model_copy(update={"name": name})})
    return await start_worker(own)


async def until_ready(router: Router, workers: int) -> None:
    await until(lambda: sum(session.ready for session in router.sessions) == workers, LIMIT_S)


async def ask(router: Router, config: Config, **fields: Any) -> chat_pb2.ChatCompletion:
    async with make_channel(f"127.0.0.1:{router.grpc_port}", config.grpc) as channel:
        return await ask_over(channel, **fields)


async def ask_over(channel: grpc.aio.Channel, **fields: Any) -> chat_pb2.ChatCompletion:
    stub = chat_pb2_grpc.ChatServiceStub(channel)
    answer: chat_pb2.ChatCompletion = await stub.CreateChatCompletion(chat(max_tokens=3, **fields), timeout=LIMIT_S)
    return answer


async def test_workers_are_found_and_followed(server: RedisServer) -> None:
    """No address is written anywhere: a worker that comes is used, one that goes is forgotten, readiness follows."""
    config = config_of(server.url)
    async with routed(config) as router:
        assert router.core.ready() != ""
        assert list(router.sessions) == []
        with pytest.raises(grpc.aio.AioRpcError, match="no worker"):
            await ask(router, config)
        first = await worker_named(config, "a")
        await until_ready(router, 1)
        assert router.core.ready() == ""
        assert (await ask(router, config)).usage.completion_tokens == 3
        second = await worker_named(config, "b")
        await until_ready(router, 2)

        assert await first.stop() == 0
        await until(lambda: [session.name for session in router.sessions] == ["b"], LIMIT_S)
        await ask(router, config)
        assert await second.stop() == 0
        await until(lambda: not list(router.sessions), LIMIT_S)
        assert router.core.ready() != ""


async def test_any_order_with_the_store_last(server: RedisServer) -> None:
    """Two routers and four workers, some of them before and some after, that start before their store serve once it is
    there.
    """
    await server.kill()
    config = config_of(server.url)
    workers = [await worker_named(config, name) for name in "ab"]
    try:
        async with routed(config) as one, routed(config) as two:
            assert not list(one.sessions)
            workers += [await worker_named(config, name) for name in "cd"]
            await server.start()
            for router in (one, two):
                await until_ready(router, 4)
                await ask(router, config)
    finally:
        for worker in workers:
            await worker.stop()


async def test_cut_off_from_one_router(server: RedisServer) -> None:
    """The router that sees its store no more answers as before, and so does the other one, with kept answers."""
    proxy = Proxy(server.port)
    await proxy.start()
    config = config_of(server.url, cache__mode="readwrite")
    worker = await worker_named(config, "a")
    try:
        async with routed(config_of(proxy.url, cache__mode="readwrite")) as cut, routed(config) as other:
            for router in (cut, other):
                await until_ready(router, 1)
            await ask(cut, config, temperature=0.0)
            await proxy.close()
            for turn in range(8):
                await ask(cut, config, text=f"{turn}", temperature=0.0)

            assert [session.ready for session in cut.sessions] == [True]
            async with make_channel(f"127.0.0.1:{other.grpc_port}", config.grpc) as channel:
                await until_hit(channel)
    finally:
        await worker.stop()


DRILLS = ("killed", "flushed", "slow", "full", "full with eviction", "read-only", "wrong password", "lies")


@pytest.mark.parametrize("drill", DRILLS)
async def test_no_request_fails_for_the_stores_sake(drill: str, server: RedisServer) -> None:
    """Under load, with kept answers in use, the store breaks for longer than a lease and heals.

    Every request is answered, equal ones with equal words, and repeats come from the store again.
    """
    proxy = Proxy(server.port)
    await proxy.start()
    config = config_of(proxy.url, cache__mode="readwrite")
    worker = await worker_named(config, "a")
    failures: list[BaseException] = []
    texts: dict[str, set[str]] = {}
    answered = 0
    stop = asyncio.Event()
    try:
        async with (
            routed(config) as router,
            make_channel(f"127.0.0.1:{router.grpc_port}", config.grpc) as channel,
        ):
            await until_ready(router, 1)

            async def load(number: int) -> None:
                nonlocal answered
                turn = 0
                while not stop.is_set():
                    turn += 1
                    # Every second request is one that was made before.
                    text = "repeated" if turn % 2 else f"{number} {turn}"
                    try:
                        answer = await ask_over(channel, text=text, temperature=0.0)
                    except grpc.aio.AioRpcError as error:
                        failures.append(error)
                    else:
                        message = answer.choices[0].message
                        texts.setdefault(text, set()).add(message.content + message.reasoning_content)
                    answered += 1

            callers = [asyncio.ensure_future(load(number)) for number in range(3)]

            async def more(count: int) -> None:
                wanted = answered + count
                await until(lambda: answered >= wanted, LIMIT_S)

            await more(10)
            await break_it(drill, server, proxy)
            # On any machine longer than a lease lasts.
            await more(60)
            assert [session.ready for session in router.sessions] == [True]
            await heal_it(drill, server, proxy)
            await until_hit(channel)
            await more(10)
            stop.set()
            await asyncio.gather(*callers)
            assert failures == []
            assert [session.ready for session in router.sessions] == [True]
    finally:
        stop.set()
        await worker.stop()
        await proxy.close()
    assert all(len(answers) == 1 for answers in texts.values())
    assert "repeated" in texts


async def break_it(drill: str, server: RedisServer, proxy: Proxy) -> None:
    if drill == "killed":
        await server.kill()
    elif drill == "flushed":
        await server.command("FLUSHALL")
    elif drill == "slow":
        proxy.delay_s = 0.5
    elif drill.startswith("full"):
        policy = "allkeys-lru" if "eviction" in drill else "noeviction"
        await server.command("CONFIG", "SET", "maxmemory-policy", policy)
        await server.command("CONFIG", "SET", "maxmemory", "1")
    elif drill == "read-only":
        await server.command("REPLICAOF", "127.0.0.1", "1")
    elif drill == "wrong password":
        await server.command("CONFIG", "SET", "requirepass", "other")
        await server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", password="other")
    else:
        lie = "for _, k in ipairs(redis.call('KEYS', 't:*')) do redis.call('SET', k, 'lies') end return 1"
        await server.command("EVAL", lie, "0")


async def heal_it(drill: str, server: RedisServer, proxy: Proxy) -> None:
    if drill == "killed":
        await server.start()
    elif drill == "slow":
        proxy.delay_s = 0.0
    elif drill.startswith("full"):
        await server.command("CONFIG", "SET", "maxmemory", "0")
    elif drill == "read-only":
        await server.command("REPLICAOF", "NO", "ONE")
    elif drill == "wrong password":
        await server.command("CONFIG", "SET", "requirepass", "", password="other")
    elif drill == "lies":
        await server.command("FLUSHALL")


async def until_hit(channel: grpc.aio.Channel) -> None:
    """Asks until an answer comes from the store."""

    async def look() -> None:
        while (await ask_over(channel, text="again", temperature=0.0)).cache != chat_pb2.CACHE_STATUS_HIT:
            pass

    await asyncio.wait_for(look(), LIMIT_S)


async def test_ps_shows_the_cluster(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Every process with a lease is a row; without a store, or without its answer, the command says what to do."""
    config = config_of(server.url)
    worker = await worker_named(config, "w7")
    settings = ["--set", f"store.url={server.url}", "--set", "store.prefix=t"]
    try:
        async with routed(config) as router, announced_tokenizer(config, 7000, lambda: False):
            await until_ready(router, 1)
            rows: list[list[str]] = []
            while len(rows) < 3:  # each announces itself at a time of its own
                assert await asyncio.to_thread(main, ["ps", "--cluster", *settings]) == 0
                shown = capsys.readouterr().out
                rows = [line.split() for line in shown.splitlines() if "127.0.0.1" in line]
            [tokenizer, first, second] = rows
            assert tokenizer[:3] == ["127.0.0.1:7000", "-", "tokenizer"]
            assert (first[:3], second[0]) == (
                [f"127.0.0.1:{router.grpc_port}", f"127.0.0.1:{router.http_port}", "router"],
                f"127.0.0.1:{worker.port}",
            )
            assert "w7" in second
            assert "simulated" in second
        await server.kill()
        assert await asyncio.to_thread(main, ["ps", "--cluster", *settings]) == 1
        assert "the store does not answer" in capsys.readouterr().err
        assert await asyncio.to_thread(main, ["ps", "--cluster"]) == 1
        assert "store.url" in capsys.readouterr().err
    finally:
        await worker.stop()
