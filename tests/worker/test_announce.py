"""A worker with a store says that it is there, and that it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from qwenserve.cluster.v1 import announcement_pb2
from qwenserve.store.shared import SharedStore
from qwenserve.worker.announce import GROUP
from tests.store.servers import backend_of, running_redis, why_none
from tests.system.stack import stack_config, start_worker

pytestmark = pytest.mark.skipif(bool(why_none()), reason=why_none() or "-")

LIMIT_S = 30.0


async def until_announced(store: SharedStore, as_wanted: Callable[[list[announcement_pb2.Announcement]], bool]) -> None:
    async def look() -> None:
        while True:
            values = await store.members(GROUP)
            if values is not None and as_wanted([announcement_pb2.Announcement.FromString(v) for v in values.values()]):
                return
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), LIMIT_S)


async def test_a_worker_comes_and_goes():
    """Its lease has address, model and what it can do; a store that was emptied learns it again; a stop ends it."""
    async with running_redis() as server:
        config = stack_config(store__url=server.url, store__prefix="test", store__lease_s=1.0, worker__name="w7")
        store = SharedStore(backend_of(server.url), timeout_s=5.0, where="test")
        worker = await start_worker(config)
        try:

            def is_there(said: list[announcement_pb2.Announcement]) -> bool:
                return [
                    (s.tier, s.name, s.address, s.model, s.state, s.worker.engine, s.worker.model) for s in said
                ] == [
                    (
                        announcement_pb2.TIER_WORKER,
                        "w7",
                        f"127.0.0.1:{worker.port}",
                        "qwen3-tiny",
                        announcement_pb2.STATE_READY,
                        "simulated",
                        "qwen3-tiny",
                    )
                ]

            await until_announced(store, is_there)
            await server.command("FLUSHALL")
            await until_announced(store, is_there)
            assert await worker.stop() == 0
            assert await store.members(GROUP) == {}
        finally:
            if not worker.task.done():
                await worker.stop()
            await store.close()


async def test_a_worker_starts_without_its_store():
    """A store that is not there keeps no worker from serving; once it is there, the worker is in it."""
    async with running_redis() as server:
        await server.kill()
        worker = await start_worker(stack_config(store__url=server.url, store__prefix="test", store__lease_s=1.0))
        store = SharedStore(backend_of(server.url), timeout_s=5.0, where="test")
        try:
            await server.start()
            await until_announced(store, lambda said: len(said) == 1)
        finally:
            assert await worker.stop() == 0
            await store.close()
