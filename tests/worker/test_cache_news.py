"""What the prefix cache holds, told over the sessions of a real worker."""

from __future__ import annotations

from qwenserve.runtime.block_hash import block_hashes
from qwenserve.worker.engine_interface import EngineInfo
from qwenserve.worker.engines.simulated.engine import SimulatedConfig, SimulatedEngine
from qwenserve.worker.v1 import worker_pb2
from tests.worker.running import Client, running, submit

# Room for 12 blocks of 16 ids.
SMALL = SimulatedConfig(step_s=0.001, kv_blocks=12, kv_block_tokens=16)


class Knowledge:
    """What a session has told."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.blocks: set[int] = set()
        self.numbers: list[int] = []

    async def ask(self) -> None:
        await self.client.call.write(worker_pb2.SessionRequest(cache_news=True))

    async def until(self, blocks: set[int]) -> None:
        while self.blocks != blocks:
            message = await self.client.read()
            if message.HasField("cache"):
                self.take(message.cache)

    def take(self, news: worker_pb2.CacheNews) -> None:
        self.numbers.append(news.number)
        if news.number == 0:
            self.blocks = set()
        self.blocks -= set(news.removed)
        self.blocks |= set(news.stored)


def prompt(first: int) -> list[int]:
    return [first, *range(1000, 1064)]


def blocks(first: int) -> set[int]:
    return set(block_hashes(prompt(first), 16))


async def test_sessions_are_told_what_comes_and_goes_and_late_ones_all_that_is_there() -> None:
    async with running(SMALL) as worker, worker.session() as one, worker.session() as other, worker.session() as third:
        early = Knowledge(one)
        await early.ask()
        await third.send(*(submit(n, prompt(n), sampling={"max_tokens": 1}) for n in (1, 2)))
        await early.until(blocks(1) | blocks(2))

        late = Knowledge(other)
        await late.ask()
        await late.until(blocks(1) | blocks(2))

        # Four blocks for the third prompt and one for its answer: of the first one, the end goes.
        await third.finish_of(1)
        await third.finish_of(2)
        await third.send(submit(3, prompt(3), sampling={"max_tokens": 1}))
        await third.finish_of(3)
        kept = set(list(block_hashes(prompt(1), 16))[:3])
        for knowledge in (early, late):
            await knowledge.until(kept | blocks(2) | blocks(3))
            assert knowledge.numbers == list(range(len(knowledge.numbers)))
        assert not any(message.HasField("cache") for message in third.messages)
        assert (await worker.stub.GetWorkerInfo(worker_pb2.GetWorkerInfoRequest())).exact_cache_news


async def test_who_asks_again_is_told_from_the_beginning() -> None:
    async with running(SMALL) as worker, worker.session() as client:
        knowledge = Knowledge(client)
        await client.send(submit(1, prompt(1), sampling={"max_tokens": 1}))
        await knowledge.ask()
        await knowledge.until(blocks(1))
        knowledge.blocks.clear()
        await knowledge.ask()
        await knowledge.until(blocks(1))

        assert knowledge.numbers[-1] == 0


async def test_an_empty_cache_is_told_of_too() -> None:
    async with running(SMALL) as worker, worker.session() as client:
        knowledge = Knowledge(client)
        await knowledge.ask()
        knowledge.blocks.add(1)
        await knowledge.until(set())

        assert knowledge.numbers == [0]


async def test_of_an_engine_that_does_not_tell_prompts_are_taken_for_what_it_has(monkeypatch) -> None:
    start = SimulatedEngine.start

    async def silent_start(self, deliver, on_failure) -> EngineInfo:
        info = await start(self, deliver, on_failure)
        return EngineInfo(
            info.name, info.version, info.max_model_len, info.vocab_size, info.eos_token_ids, 8, kv_block_tokens=16
        )

    monkeypatch.setattr(SimulatedEngine, "start", silent_start)
    monkeypatch.setattr(SimulatedEngine, "kv_events", lambda self: ())
    async with running(SMALL) as worker, worker.session() as client:
        knowledge = Knowledge(client)
        await knowledge.ask()
        await client.send(*(submit(n, prompt(n), sampling={"max_tokens": 3}) for n in (1, 2)))
        await knowledge.until(blocks(1) | blocks(2))
        salted = submit(3, prompt(3), sampling={"max_tokens": 3}, cache_salt="s")
        await client.send(salted)
        third = set(block_hashes(prompt(3), 16, "s"))
        await knowledge.until(blocks(1) | blocks(2) | third)

        assert not (await worker.stub.GetWorkerInfo(worker_pb2.GetWorkerInfoRequest())).exact_cache_news
