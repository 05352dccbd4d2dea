"""What every engine must do, as tests. An engine's test module subclasses `EngineContract`:

    class TestMyEngine(EngineContract):
        def make_engine(self) -> Engine: ...
        prompt = [...]          # an engine answers it, greedily, with at least 24 ids and no end token

The engine under test needs room for 4 requests at a time, a context of 128 to 4096 tokens, and log-probabilities.

Every field of a request is proved, unless the engine declares that it cannot honour it. Most proofs are games: the
log-probabilities of a few ids behind some context are measured, then biased to levels of the test's choice, far above
all others. Which id comes, or which ids come over many seeds, is then known for whatever model. Each test of a field
fails where the field is ignored: `test_contract_by_mutation` shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from qwenserve.runtime.block_hash import block_hashes
from qwenserve.worker.engine_interface import (
    Chunk,
    Engine,
    EngineError,
    EngineInfo,
    EngineRefusal,
    EngineRequest,
    Finish,
    FinishReason,
    Guide,
    GuideKind,
    Sampling,
    TokenLogprob,
)

LIMIT_S = 60.0
GREEDY = Sampling(temperature=0.0, max_tokens=16)
ONE = Sampling(temperature=0.0, max_tokens=1)

# Where the ids of a game are lifted to: the most likely of the others is at 0 or below.
LEVEL = 20.0
SEEDS = range(32)
REQUEST_FIELDS = frozenset({"cache_salt", "answer_offset", "priority", "prompt_logprobs", "guide"})
SCHEMA = (
    '{"type":"object","properties":{"n":{"type":"integer","minimum":10,"maximum":99},"ok":{"type":"boolean"}},'
    '"required":["n","ok"],"additionalProperties":false}'
)
# Guides with answers that are short whatever a model wants, and what such an answer must be.
GUIDES: Mapping[GuideKind, tuple[str, str]] = {
    GuideKind.JSON_SCHEMA: (SCHEMA, r'\{\s*"n"\s*:\s*[1-9][0-9]\s*,\s*"ok"\s*:\s*(true|false)\s*\}'),
    GuideKind.CHOICE: ('["never","often","\u00e4fter"]', "never|often|\u00e4fter"),
    GuideKind.REGEX: ("[a-f]{3}-\u4f60?[0-9]", "[a-f]{3}-\u4f60?[0-9]"),
    GuideKind.GRAMMAR: ('start: "a" word\nword: /[xyz]/ "b"', "a[xyz]b"),
}


class Answer:
    """All that came for one request."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self.finish: Finish | None = None
        self.broken: EngineError | None = None
        self.changed = asyncio.Event()

    def take(self, chunk: Chunk) -> None:
        assert self.finish is None, "a chunk after the finish"
        if chunk.prompt_logprobs:
            assert not self.token_ids, "log-probabilities of the prompt after the first id"
            self.prompt_logprobs += chunk.prompt_logprobs
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
                assert self.broken is None, self.broken
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
        self.info = await asyncio.wait_for(self.engine.start(self._deliver, self._fail), LIMIT_S)

    def _fail(self, error: EngineError) -> None:
        self.failures.append(error)
        for answer in self._answers.values():
            answer.broken = error
            answer.changed.set()

    def _deliver(self, chunks: Sequence[Chunk]) -> None:
        assert chunks
        assert len({c.key for c in chunks}) == len(chunks), "a request twice in one delivery"
        self.deliveries.append(list(chunks))
        for chunk in chunks:
            self._answers[chunk.key].take(chunk)

    def submit(
        self, prompt: Sequence[int], sampling: Sampling, cache_salt: str = "", **more: Any
    ) -> tuple[int, Answer]:
        """Starts a request, with `more` of its fields; returns its key and its answer to be."""
        self._keys += 1
        self.engine.submit(EngineRequest(self._keys, prompt, sampling, cache_salt, **more))
        return self._keys, self._answers[self._keys]

    async def ask(self, prompt: Sequence[int], sampling: Sampling, cache_salt: str = "", **more: Any) -> Answer:
        """Returns the whole answer."""
        _, answer = self.submit(prompt, sampling, cache_salt, **more)
        await answer.whole()
        return answer

    async def logprob(self, context: Sequence[int], token: int) -> float:
        """Returns how likely an id is behind a context, before sampling parameters apply."""
        if not self.is_exact("top_logprobs") and "prompt_logprobs" not in self.info.unsupported_fields:
            # Where what was biased is told with its bias, what stands in a prompt is told without.
            answer = await self.ask([*context, token], ONE, prompt_logprobs=0)
            return answer.prompt_logprobs[-1].logprob
        answer = await self.ask(context, replace(ONE, logit_bias={token: 100.0}, top_logprobs=0))
        assert answer.token_ids == [token]
        assert len(answer.logprobs) == 1
        return answer.logprobs[0].logprob

    async def levels(self, context: Sequence[int], wanted: Mapping[int, float]) -> dict[int, float]:
        """Returns the biases that bring ids to these log-probabilities, as far as the others leave that meaning."""
        return {token: level - await self.logprob(context, token) for token, level in wanted.items()}

    async def shares(self, context: Sequence[int], shares: Mapping[int, float]) -> dict[int, float]:
        """Returns the biases that make ids this likely, and all others next to impossible."""
        return await self.levels(context, {token: LEVEL + math.log(share) for token, share in shares.items()})

    async def drawn(self, context: Sequence[int], sampling: Sampling, seeds: Iterable[int] = SEEDS) -> list[int]:
        """Returns the first id of an answer for each of some seeds."""
        return [(await self.ask(context, replace(sampling, max_tokens=1, seed=s))).token_ids[0] for s in seeds]

    def needs(self, *names: str) -> None:
        """Skips the test where the engine declares that it cannot honour a field."""
        lacking = sorted(self.info.unsupported_fields.intersection(names))
        if lacking:
            pytest.skip(f"{self.info.name} declares that it cannot honour {', '.join(lacking)}")

    def is_exact(self, *names: str) -> bool:
        """Whether the engine declares no difference for these fields."""
        return not self.info.approximate_fields.keys() & set(names)


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
    # Whether what is behind the adapter has a prefix cache that it tells of: stand-ins for packages have none.
    caches = True

    def make_engine(self) -> Engine:
        raise NotImplementedError

    def spare_ids(self, driver: Driver, count: int) -> list[int]:
        """Returns ids that are neither in the prompt nor end an answer."""
        taken = {*self.prompt, *driver.info.eos_token_ids}
        return [token for token in range(driver.info.vocab_size) if token not in taken][:count]

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

    async def test_it_declares_fields_that_there_are(self, driver: Driver) -> None:
        known = {field.name for field in fields(Sampling)} | REQUEST_FIELDS
        info = driver.info
        assert info.unsupported_fields <= known - {"max_tokens"}
        assert info.approximate_fields.keys() <= known - info.unsupported_fields
        assert all(info.approximate_fields.values())

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
        driver.needs("min_tokens")
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

    async def test_temperature(self, driver: Driver) -> None:
        driver.needs("temperature", "seed", "logit_bias")
        first, second = self.spare_ids(driver, 2)
        bias = await driver.shares(self.prompt, {first: 0.88, second: 0.12})
        assert set(await driver.drawn(self.prompt, replace(ONE, logit_bias=bias))) == {first}
        cold, warm = [
            (await driver.drawn(self.prompt, Sampling(temperature=t, logit_bias=bias))).count(second) for t in (0.25, 2)
        ]
        # 0.03 % and 27 % of the draws.
        assert cold < 2 < warm < len(SEEDS) / 2

    async def test_a_seed_repeats_its_answer_and_all_its_bits_count(self, driver: Driver) -> None:
        driver.needs("seed", "logit_bias")
        # Many ids and a high temperature: a model that likes some of them behind others must leave room for chance.
        bias = await driver.levels(self.prompt, dict.fromkeys(self.spare_ids(driver, 16), 2 * LEVEL))
        sampling = Sampling(temperature=2.0, max_tokens=24, ignore_eos=True, logit_bias=bias)
        seeds = (0, 1, 1 + 2**31, 1 + 2**32, 1 + 2**62, 2**63 - 1, -1, -(2**63))
        answers = [(await driver.ask(self.prompt, replace(sampling, seed=seed))).token_ids for seed in seeds]
        assert len({tuple(ids) for ids in answers}) == len(seeds)
        for seed, ids in zip(seeds, answers, strict=True):
            assert (await driver.ask(self.prompt, replace(sampling, seed=seed))).token_ids == ids

    @pytest.mark.parametrize(
        ("name", "narrow"),
        [("top_k", {"top_k": 2}), ("top_p", {"top_p": 0.6}), ("min_p", {"min_p": 0.5})],
    )
    async def test_filters(self, driver: Driver, name: str, narrow: Mapping[str, Any]) -> None:
        driver.needs(name, "seed", "logit_bias")
        first, second, third = self.spare_ids(driver, 3)
        bias = await driver.shares(self.prompt, {first: 0.5, second: 0.3, third: 0.2})
        sampling = Sampling(logit_bias=bias)
        assert set(await driver.drawn(self.prompt, sampling)) == {first, second, third}
        assert set(await driver.drawn(self.prompt, replace(sampling, **narrow))) == {first, second}

    @pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
    async def test_filters_that_leave_one_id(self, driver: Driver, narrow: Mapping[str, Any]) -> None:
        driver.needs(*narrow, "seed", "logit_bias")
        first, second = self.spare_ids(driver, 2)
        bias = await driver.shares(self.prompt, {first: 0.55, second: 0.45})
        assert set(await driver.drawn(self.prompt, Sampling(logit_bias=bias, **narrow))) == {first}

    async def test_a_bias_forces_and_bans(self, driver: Driver) -> None:
        driver.needs("logit_bias")
        for token in self.spare_ids(driver, 3):
            forced = await driver.ask(self.prompt, replace(GREEDY, max_tokens=3, logit_bias={token: 100.0}))
            assert forced.token_ids == [token] * 3
        favourite = (await driver.ask(self.prompt, ONE)).token_ids[0]
        assert (await driver.ask(self.prompt, replace(ONE, logit_bias={favourite: -100.0}))).token_ids != [favourite]

    async def test_presence_penalty(self, driver: Driver) -> None:
        driver.needs("presence_penalty", "logit_bias")
        said, other = self.spare_ids(driver, 2)
        context, start = [*self.prompt, said, said], len(self.prompt)
        bias = await driver.levels(context, {said: LEVEL, other: LEVEL - 1})
        for penalty, expected in ((0.0, said), (0.75, said), (1.25, other)):
            sampling = replace(ONE, logit_bias=bias, presence_penalty=penalty)
            assert (await driver.ask(context, sampling, answer_offset=start)).token_ids == [expected], penalty
        bias = await driver.levels(context, {said: LEVEL - 1, other: LEVEL})
        reward = replace(ONE, logit_bias=bias, presence_penalty=-1.5)
        assert (await driver.ask(context, reward, answer_offset=start)).token_ids == [said]

    async def test_frequency_penalty(self, driver: Driver) -> None:
        driver.needs("frequency_penalty", "logit_bias")
        said, other = self.spare_ids(driver, 2)
        for times, expected in ((1, said), (3, other)):
            context = [*self.prompt, *[said] * times]
            bias = await driver.levels(context, {said: LEVEL, other: LEVEL - 1})
            sampling = replace(ONE, logit_bias=bias, frequency_penalty=0.5)
            assert (await driver.ask(context, sampling, answer_offset=len(self.prompt))).token_ids == [expected], times

    async def test_repetition_penalty(self, driver: Driver) -> None:
        driver.needs("repetition_penalty", "logit_bias")
        if not driver.is_exact("repetition_penalty"):
            pytest.skip(f"{driver.info.name} declares where its repetition penalty differs")
        said, other = self.spare_ids(driver, 2)
        context = [*self.prompt, said]
        for penalty, lead, expected in ((1.0, 1, said), (1.5, 1, other), (1.0, -1, other), (0.5, -1, said)):
            bias = await driver.levels(context, {said: LEVEL + lead / 2, other: LEVEL - lead / 2})
            sampling = replace(ONE, logit_bias=bias, repetition_penalty=penalty)
            # Whether it is of the prompt or of the answer.
            for offset in (None, len(self.prompt)):
                assert (await driver.ask(context, sampling, answer_offset=offset)).token_ids == [expected], penalty

    @pytest.mark.parametrize("penalty", [{"presence_penalty": 2.0}, {"frequency_penalty": 2.0}])
    async def test_penalties_count_the_answer_while_it_grows(self, driver: Driver, penalty: Mapping[str, Any]) -> None:
        driver.needs(*penalty, "logit_bias", "top_logprobs")
        said, other = self.spare_ids(driver, 2)
        bias = await driver.levels(self.prompt, {said: LEVEL, other: LEVEL - 0.5})
        behind = await driver.levels([*self.prompt, said], {said: LEVEL, other: LEVEL - 0.5})
        # The second id's biases are what the context behind the first one needs.
        lead = (bias[said] - behind[said]) - (bias[other] - behind[other])
        answer = await driver.ask(self.prompt, replace(GREEDY, max_tokens=2, logit_bias=bias, **penalty))
        assert answer.token_ids == [said, other if 0.5 + lead < 2 else said]

    @pytest.mark.parametrize("penalty", [{"presence_penalty": 2.0}, {"frequency_penalty": 2.0}])
    async def test_the_answer_begins_where_the_request_says(self, driver: Driver, penalty: Mapping[str, Any]) -> None:
        driver.needs("answer_offset", *penalty, "logit_bias")
        if not driver.is_exact("answer_offset", *penalty):
            pytest.skip(f"{driver.info.name} declares where its penalties differ")
        said, other = self.spare_ids(driver, 2)
        context = [*self.prompt, said, *self.prompt[:1]]
        bias = await driver.levels(context, {said: LEVEL, other: LEVEL - 1})
        begin = len(self.prompt)
        for offset, expected in ((begin, other), (begin + 1, said), (begin + 2, said), (None, said), (1, other)):
            sampling = replace(ONE, logit_bias=bias, **penalty)
            answer = await driver.ask(context, sampling, answer_offset=offset)
            assert answer.token_ids == [expected], offset

    async def test_end_tokens_end_an_answer_unless_ignored(self, driver: Driver) -> None:
        driver.needs("logit_bias")
        for end in driver.info.eos_token_ids:
            forced = replace(GREEDY, max_tokens=4, logit_bias={end: 100.0})
            answer = await driver.ask(self.prompt, forced)
            assert answer.token_ids == [end]
            assert answer.finish is not None
            assert answer.finish[:2] == (FinishReason.STOP, end)
            if "ignore_eos" in driver.info.unsupported_fields:
                continue
            answer = await driver.ask(self.prompt, replace(forced, ignore_eos=True))
            assert answer.token_ids == [end] * 4
            assert answer.finish is not None
            assert answer.finish[:2] == (FinishReason.LENGTH, None)

    async def test_only_allowed_ids_come(self, driver: Driver) -> None:
        driver.needs("allowed_token_ids", "seed")
        allowed = self.spare_ids(driver, 3)
        sampling = Sampling(temperature=2.0, max_tokens=24, allowed_token_ids=frozenset(allowed))
        answers = [await driver.ask(self.prompt, replace(sampling, seed=seed)) for seed in range(8)]
        assert {token for answer in answers for token in answer.token_ids} == set(allowed)
        assert {len(answer.token_ids) for answer in answers} == {24}
        likeliest = max([(await driver.logprob(self.prompt, token), -token) for token in allowed])
        greedy = await driver.ask(self.prompt, replace(ONE, allowed_token_ids=frozenset(allowed)))
        assert greedy.token_ids == [-likeliest[1]]

    async def test_an_allowed_end_token_ends_the_answer(self, driver: Driver) -> None:
        driver.needs("allowed_token_ids", "logit_bias")
        end = min(driver.info.eos_token_ids)
        (token,) = self.spare_ids(driver, 1)
        sampling = replace(GREEDY, allowed_token_ids=frozenset({end, token}))
        for bias, expected in (({end: 50.0}, [end]), ({end: -50.0}, [token] * GREEDY.max_tokens)):
            assert (await driver.ask(self.prompt, replace(sampling, logit_bias=bias))).token_ids == expected

    async def test_prompt_logprobs_are_what_an_answer_would_have(self, driver: Driver) -> None:
        driver.needs("prompt_logprobs", "logit_bias")
        prompt = [*self.prompt[:4], *self.spare_ids(driver, 2)]
        for top in (0, 3):
            answer = await driver.ask(prompt, replace(GREEDY, max_tokens=2), prompt_logprobs=top)
            assert len(answer.token_ids) == 2
            assert [row.token_id for row in answer.prompt_logprobs] == prompt[1:]
            for place, row in enumerate(answer.prompt_logprobs, 1):
                assert row.logprob == pytest.approx(await driver.logprob(prompt[:place], prompt[place]), abs=0.01)
                likeliest = await driver.ask(prompt[:place], replace(ONE, top_logprobs=top))
                expected = likeliest.logprobs[0].top
                assert [value for _, value in row.top] == pytest.approx([value for _, value in expected], abs=0.01)
        assert (await driver.ask(prompt, ONE)).prompt_logprobs == []

    async def test_a_prompt_of_one_id_has_no_logprobs(self, driver: Driver) -> None:
        driver.needs("prompt_logprobs")
        answer = await driver.ask(self.prompt[:1], ONE, prompt_logprobs=1)
        assert (answer.prompt_logprobs, len(answer.token_ids)) == ([], 1)

    async def test_a_repeated_prompt_is_cached(self, driver: Driver) -> None:
        prompt = (list(self.prompt) * 64)[:64]
        first = await driver.ask(prompt, GREEDY)
        second = await driver.ask(prompt, GREEDY)
        assert first.finish is not None
        assert first.finish.cached_tokens == 0
        assert second.finish is not None
        assert 32 <= second.finish.cached_tokens < len(prompt)
        assert second.token_ids == first.token_ids

    async def test_what_is_told_of_the_cache_is_what_a_repeated_prompt_finds(self, driver: Driver) -> None:
        size = driver.info.kv_block_tokens
        if not driver.info.tells_kv_events or not self.caches:
            pytest.skip("nothing is told of a cache")
        driver.engine.kv_events()
        prompt = [*self.prompt[::-1], *(list(self.prompt) * 64)[:64]]
        answers = [await driver.ask(prompt, GREEDY)]
        known: set[int] = set()
        hashes = block_hashes(prompt, size)[: (len(prompt) - 1) // size]

        async def told() -> None:
            while not known.issuperset(hashes):
                for event in driver.engine.kv_events():
                    known.difference_update(event.removed)
                    known.update(event.stored)
                await asyncio.sleep(0)

        await asyncio.wait_for(told(), LIMIT_S)
        answers.append(await driver.ask(prompt, GREEDY))
        found = [answer.finish.cached_tokens for answer in answers if answer.finish is not None]
        assert found[0] < found[1]
        assert len(hashes) * size <= found[1] < len(hashes) * size + size

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

    async def test_a_guide_that_is_not_declared_is_refused(self, driver: Driver) -> None:
        for kind in set(GuideKind) - driver.info.guide_kinds:
            with pytest.raises(EngineRefusal) as refusal:
                driver.submit(self.prompt, GREEDY, guide=Guide(kind, "{}"))
            assert refusal.value.param == "guide"
        assert len((await driver.ask(self.prompt, GREEDY)).token_ids) == GREEDY.max_tokens

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of some ids, end tokens left out: of an engine that follows guides."""
        raise NotImplementedError

    @pytest.mark.parametrize("kind", GUIDES)
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    async def test_every_answer_keeps_to_its_guide(self, driver: Driver, kind: GuideKind, temperature: float) -> None:
        if kind not in driver.info.guide_kinds:
            pytest.skip(f"the engine does not declare {kind.name}")
        text, pattern = GUIDES[kind]
        sampling = replace(GREEDY, temperature=temperature, max_tokens=260)
        for seed in range(4):
            answer = await driver.ask(self.prompt, replace(sampling, seed=seed), guide=Guide(kind, text))
            assert answer.finish is not None
            assert (answer.finish.reason, answer.finish.error) == (FinishReason.STOP, "")
            assert re.fullmatch(pattern, self.text_of(answer.token_ids)), self.text_of(answer.token_ids)

    async def test_a_guide_goes_on_from_ids_that_are_sent_back(self, driver: Driver) -> None:
        if GuideKind.JSON_SCHEMA not in driver.info.guide_kinds:
            pytest.skip("the engine follows no guides")
        if not driver.is_exact("guide"):
            pytest.skip(f"{driver.info.name} declares where its guides differ")
        guide = Guide(GuideKind.JSON_SCHEMA, SCHEMA)
        sampling = replace(GREEDY, max_tokens=260)
        whole = (await driver.ask(self.prompt, sampling, guide=guide)).token_ids
        start = len(self.prompt)
        for cut in (1, 2, 3, len(whole) // 2, len(whole) - 1, len(whole)):
            prompt = [*self.prompt, *whole[:cut]]
            rest = await driver.ask(prompt, sampling, answer_offset=start, guide=guide)
            assert rest.finish is not None
            assert (rest.finish.reason, rest.finish.error) == (FinishReason.STOP, "")
            assert re.fullmatch(GUIDES[guide.kind][1], self.text_of([*whole[:cut], *rest.token_ids]))
        # What is guided may begin behind the beginning of the answer.
        begun = [*self.prompt, *whole[:2], *self.prompt]
        later = await driver.ask(begun, sampling, answer_offset=start, guide_offset=len(begun), guide=guide)
        assert re.fullmatch(GUIDES[guide.kind][1], self.text_of(later.token_ids))

    async def test_guided_ids_have_logprobs_and_limits(self, driver: Driver) -> None:
        if GuideKind.JSON_SCHEMA not in driver.info.guide_kinds:
            pytest.skip("the engine follows no guides")
        guide = Guide(GuideKind.JSON_SCHEMA, SCHEMA)
        scored = await driver.ask(self.prompt, replace(GREEDY, max_tokens=260, top_logprobs=1), guide=guide)
        assert [row.token_id for row in scored.logprobs] == scored.token_ids
        assert re.fullmatch(GUIDES[guide.kind][1], self.text_of(scored.token_ids))
        for most in (1, 2, 5):
            short = await driver.ask(self.prompt, replace(GREEDY, max_tokens=most), guide=guide)
            assert short.finish is not None
            assert (len(short.token_ids), short.finish.reason) == (most, FinishReason.LENGTH)
        # There is nothing left to generate when the guide is complete.
        least = await driver.ask(
            self.prompt, replace(GREEDY, max_tokens=260, min_tokens=250, ignore_eos=True), guide=guide
        )
        assert re.fullmatch(GUIDES[guide.kind][1], self.text_of(least.token_ids))

    async def test_a_guide_that_cannot_be_followed_fails_its_request_alone(self, driver: Driver) -> None:
        if GuideKind.REGEX not in driver.info.guide_kinds:
            pytest.skip("the engine follows no guides")
        answer = await driver.ask(self.prompt, GREEDY, guide=Guide(GuideKind.REGEX, "a(?=b)"))
        assert answer.finish is not None
        assert (answer.finish.reason, answer.token_ids) == (FinishReason.ABORTED, [])
        assert "guide" in answer.finish.error
        assert len((await driver.ask(self.prompt, GREEDY)).token_ids) == GREEDY.max_tokens
        assert driver.failures == []

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
