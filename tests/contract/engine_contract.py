"""What every engine must do, as tests. An engine's test module subclasses `EngineContract`:

    class TestMyEngine(EngineContract):
        def make_engine(self) -> Engine: ...
        prompt = [...]          # an engine answers it, greedily, with at least 24 ids and no end token

The engine under test needs room for 4 requests at a time and a context of 128 to 4096 tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from qwenserve.worker.engine_interface import (
    Chunk,
    Engine,
    EngineError,
    EngineInfo,
    EngineRefusal,
    EngineRequest,
    Finish,
    FinishReason,
    Sampling,
    TokenLogprob,
)

LIMIT_S = 20.0
GREEDY = Sampling(temperature=0.0, max_tokens=16)


class Answer:
    """All that came for one request."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish: Finish | None = None
        self.changed = asyncio.Event()

    def take(self, chunk: Chunk) -> None:
        assert self.finish is None, "a chunk after the finish"
        self.token_ids += chunk.token_ids
        if chunk.logprobs is not None:
            assert len(chunk.logprobs) == len(chunk.token_ids)
            self.logprobs += chunk.logprobs
        self.finish = chunk.finish
        self.changed.set()

    async def tokens(self, count: int) -> None:
        """Waits for at least `count` ids, or the finish."""

        async def reached() -> None:
            while len(self.token_ids) < count and self.finish is None:
                self.changed.clear()
                await self.changed.wait()

        await asyncio.wait_for(reached(), LIMIT_S)

    async def whole(self) -> Finish:
        """Waits for the finish."""
        await self.tokens(1 << 60)
        assert self.finish is not None
        return self.finish


class Driver:
    """A started engine and the answers it gives."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.info: EngineInfo
        self.deliveries: list[list[Chunk]] = []
        self.failures: list[EngineError] = []
        self._answers: dict[int, Answer] = defaultdict(Answer)
        self._keys = 0

    async def start(self) -> None:
        self.info = await asyncio.wait_for(self.engine.start(self._deliver, self.failures.append), LIMIT_S)

    def _deliver(self, chunks: Sequence[Chunk]) -> None:
        assert chunks
        assert len({c.key for c in chunks}) == len(chunks), "a request twice in one delivery"
        self.deliveries.append(list(chunks))
        for chunk in chunks:
            self._answers[chunk.key].take(chunk)

    def submit(self, prompt: Sequence[int], sampling: Sampling, cache_salt: str = "") -> tuple[int, Answer]:
        """Starts a request; returns its key and its answer to be."""
        self._keys += 1
        self.engine.submit(EngineRequest(self._keys, prompt, sampling, cache_salt))
        return self._keys, self._answers[self._keys]

    async def ask(self, prompt: Sequence[int], sampling: Sampling, cache_salt: str = "") -> Answer:
        """Returns the whole answer."""
        _, answer = self.submit(prompt, sampling, cache_salt)
        await answer.whole()
        return answer


@contextlib.asynccontextmanager
async def driving(engine: Engine) -> AsyncIterator[Driver]:
    """A started engine, stopped at the end whatever happens."""
    driver = Driver(engine)
    await driver.start()
    try:
        yield driver
    finally:
        await asyncio.wait_for(engine.stop(), LIMIT_S)
    assert not driver.failures


class EngineContract:
    """The behaviours. Subclass it; see the module's text."""

    prompt: Sequence[int]

    def make_engine(self) -> Engine:
        raise NotImplementedError

    @pytest.fixture
    async def driver(self) -> AsyncIterator[Driver]:
        async with driving(self.make_engine()) as driver:
            yield driver

    async def test_it_says_what_it_can_do(self, driver: Driver) -> None:
        info = driver.info
        assert info.name
        assert info.version
        assert info.max_running >= 4
        assert 128 <= info.max_model_len <= 4096
        assert info.eos_token_ids
        assert max(info.eos_token_ids) < info.vocab_size

    async def test_length_limit(self, driver: Driver) -> None:
        for limit in (1, 2, 17):
            answer = await driver.ask(self.prompt, replace(GREEDY, max_tokens=limit))
            assert answer.finish is not None
            assert answer.finish[:2] == (FinishReason.LENGTH, None)
            assert len(answer.token_ids) == limit
            assert all(0 <= t < driver.info.vocab_size for t in answer.token_ids)

    async def test_greedy_repeats(self, driver: Driver) -> None:
        first = await driver.ask(self.prompt, GREEDY)
        second = await driver.ask(self.prompt, GREEDY)
        assert first.token_ids == second.token_ids
        assert first.logprobs == []

    async def test_continuation_of_a_part_gives_the_rest(self, driver: Driver) -> None:
        whole = await driver.ask(self.prompt, GREEDY)
        for cut in (1, 7, 15):
            rest = await driver.ask(
                [*self.prompt, *whole.token_ids[:cut]], replace(GREEDY, max_tokens=GREEDY.max_tokens - cut)
            )
            assert rest.token_ids == whole.token_ids[cut:]

    async def test_stop_token_ends_the_answer_and_is_its_last_id(self, driver: Driver) -> None:
        whole = (await driver.ask(self.prompt, GREEDY)).token_ids
        for stop in {whole[0], whole[5], whole[-1]}:
            answer = await driver.ask(self.prompt, replace(GREEDY, stop_token_ids=frozenset({stop})))
            assert answer.token_ids == whole[: whole.index(stop) + 1]
            assert answer.finish is not None
            assert answer.finish[:2] == (FinishReason.STOP, stop)

    async def test_stop_tokens_stop_where_end_tokens_are_ignored(self, driver: Driver) -> None:
        whole = (await driver.ask(self.prompt, replace(GREEDY, ignore_eos=True))).token_ids
        sampling = replace(GREEDY, ignore_eos=True, stop_token_ids=frozenset({whole[5]}))
        answer = await driver.ask(self.prompt, sampling)
        assert answer.token_ids == whole[: whole.index(whole[5]) + 1]

    async def test_stop_tokens_are_not_taken_before_min_tokens(self, driver: Driver) -> None:
        whole = (await driver.ask(self.prompt, GREEDY)).token_ids
        stops = frozenset(whole[:2])
        for least in (1, 5, 16, 20):
            answer = await driver.ask(self.prompt, replace(GREEDY, stop_token_ids=stops, min_tokens=least))
            assert len(answer.token_ids) >= min(least, GREEDY.max_tokens)
            assert not stops & set(answer.token_ids[:least])

    async def test_the_window_ends_an_answer(self, driver: Driver) -> None:
        window = driver.info.max_model_len
        prompt = (list(self.prompt) * window)[: window - 3]
        answer = await driver.ask(prompt, replace(GREEDY, max_tokens=window, ignore_eos=True))
        assert answer.finish is not None
        assert answer.finish.reason == FinishReason.LENGTH
        assert len(prompt) + len(answer.token_ids) == window

    async def test_logprobs(self, driver: Driver) -> None:
        for top in (0, 1, 5):
            answer = await driver.ask(self.prompt, replace(GREEDY, top_logprobs=top))
            assert [row.token_id for row in answer.logprobs] == answer.token_ids
            for row in answer.logprobs:
                assert row.logprob <= 0
                assert len(row.top) == top
                values = [value for _, value in row.top]
                assert values == sorted(values, reverse=True)
                if top:
                    assert row.top[0] == (row.token_id, row.logprob)  # greedy took the most likely

    async def test_a_repeated_prompt_is_cached(self, driver: Driver) -> None:
        prompt = (list(self.prompt) * 64)[:64]
        first = await driver.ask(prompt, GREEDY)
        second = await driver.ask(prompt, GREEDY)
        assert first.finish is not None
        assert first.finish.cached_tokens == 0
        assert second.finish is not None
        assert 32 <= second.finish.cached_tokens < len(prompt)
        assert second.token_ids == first.token_ids

    async def test_prefixes_are_not_shared_between_salts(self, driver: Driver) -> None:
        prompt = (list(self.prompt) * 64)[:64]
        for salt, cached in (("a", False), ("b", False), ("", False), ("a", True), ("b", True)):
            answer = await driver.ask(prompt, GREEDY, salt)
            assert answer.finish is not None
            assert bool(answer.finish.cached_tokens) == cached, salt

    async def test_requests_beside_each_other_are_answered_as_if_alone(self, driver: Driver) -> None:
        prompts = [[*self.prompt, *self.prompt[:n]] for n in range(4)]
        alone = [(await driver.ask(p, GREEDY)).token_ids for p in prompts]
        together = [driver.submit(p, GREEDY)[1] for p in prompts]
        for answer, expected in zip(together, alone, strict=True):
            await answer.whole()
            assert answer.token_ids == expected

    async def test_abort_while_answering(self, driver: Driver) -> None:
        key, answer = driver.submit(self.prompt, replace(GREEDY, max_tokens=100_000, ignore_eos=True))
        await answer.tokens(3)
        assert driver.engine.load().running == 1
        driver.engine.abort(key)
        finish = await answer.whole()
        assert finish.reason == FinishReason.ABORTED
        assert not finish.error
        assert driver.engine.load().running == 0

    async def test_abort_at_once_and_twice(self, driver: Driver) -> None:
        key, answer = driver.submit(self.prompt, replace(GREEDY, max_tokens=100_000, ignore_eos=True))
        driver.engine.abort(key)
        driver.engine.abort(key)
        assert (await answer.whole()).reason == FinishReason.ABORTED
        driver.engine.abort(key)
        driver.engine.abort(123_456)
        assert len((await driver.ask(self.prompt, GREEDY)).token_ids) == GREEDY.max_tokens

    async def test_an_abort_leaves_the_others_alone(self, driver: Driver) -> None:
        expected = (await driver.ask(self.prompt, GREEDY)).token_ids
        key, doomed = driver.submit(self.prompt, replace(GREEDY, max_tokens=100_000, ignore_eos=True))
        await doomed.tokens(1)
        _, other = driver.submit(self.prompt, GREEDY)
        driver.engine.abort(key)
        await other.whole()
        await doomed.whole()
        assert other.token_ids == expected

    async def test_bad_requests_are_refused_and_the_engine_goes_on(self, driver: Driver) -> None:
        too_long = [self.prompt[0]] * driver.info.max_model_len
        for prompt in ([], too_long):
            with pytest.raises(EngineRefusal) as refusal:
                driver.submit(prompt, GREEDY)
            assert refusal.value.param == "prompt_token_ids"
        assert len((await driver.ask(self.prompt, GREEDY)).token_ids) == GREEDY.max_tokens

    async def test_a_delivery_may_submit_and_keys_may_come_again(self, driver: Driver) -> None:
        answers: list[Answer] = []

        class Chain(Answer):
            def take(self, chunk: Chunk) -> None:
                super().take(chunk)
                if chunk.finish is not None and len(answers) < 3:
                    submit_next()

        def submit_next() -> None:
            answers.append(Chain())
            driver._answers[7] = answers[-1]
            driver.engine.submit(EngineRequest(7, self.prompt, GREEDY))

        submit_next()
        for number in range(3):
            await answers[number].whole()
        assert answers[0].token_ids == answers[1].token_ids == answers[2].token_ids

    async def test_stop_ends_what_runs_and_may_come_twice(self) -> None:
        engine = self.make_engine()
        driver = Driver(engine)
        await driver.start()
        _, answer = driver.submit(self.prompt, replace(GREEDY, max_tokens=100_000, ignore_eos=True))
        await answer.tokens(1)
        await asyncio.wait_for(engine.stop(), LIMIT_S)
        await asyncio.wait_for(engine.stop(), LIMIT_S)
        delivered = len(driver.deliveries)
        await asyncio.sleep(0)
        assert len(driver.deliveries) == delivered
        assert engine.load().running == 0

    async def test_stop_without_start(self) -> None:
        await asyncio.wait_for(self.make_engine().stop(), LIMIT_S)
