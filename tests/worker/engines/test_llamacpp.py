"""The embedded engine's own behaviour: real llama.cpp on a small random model."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from qwenserve.worker.engine_interface import EngineError, EngineRefusal, FinishReason, Sampling
from qwenserve.worker.engines.llamacpp.config import LlamaCppConfig
from qwenserve.worker.engines.llamacpp.engine import LlamaCppEngine
from qwenserve.worker.engines.llamacpp.gguf_files import WeightType, engine_file
from qwenserve.worker.engines.llamacpp.slot_calls import SlotCallError
from tests.contract.engine_contract import GREEDY, LIMIT_S, Driver, driving
from tests.worker.engines.engines import SLOTS, exact_engine
from tests.worker.engines.model_directories import END, FOREIGN_END, MERGED, OTHER_END, THINK, VOCAB

PROMPT = list(range(100, 130))
# Worth a copy.
LONG = [100 + n % 50 for n in range(160)]
WARM = Sampling(temperature=1.5, max_tokens=12, ignore_eos=True)
FORCE = 100.0


@pytest.fixture
async def driver(gguf: Path) -> AsyncIterator[Driver]:
    async with driving(exact_engine(gguf)) as driver:
        yield driver


async def test_tokens_that_end_inside_a_character_come_through(driver: Driver) -> None:
    # Bytes 0x80 to 0xFF by themselves, and a token that is the first two of a character's three bytes.
    partial = [*range(128, 256), 256 + len(MERGED) - 1]
    for token in partial:
        answer = await driver.ask(PROMPT, replace(GREEDY, max_tokens=3, logit_bias={token: FORCE}, top_logprobs=0))
        assert answer.token_ids == [token] * 3
        assert [row.token_id for row in answer.logprobs] == [token] * 3


async def test_every_other_token_comes_through_too(driver: Driver) -> None:
    for token in [*range(0, 128, 9), 256, FOREIGN_END, THINK, THINK + 1, VOCAB - 1]:
        answer = await driver.ask(PROMPT, replace(GREEDY, max_tokens=3, logit_bias={token: FORCE}))
        assert answer.token_ids == [token] * 3


@pytest.mark.parametrize("end", [END, OTHER_END])
async def test_end_tokens(driver: Driver, end: int) -> None:
    forced = replace(GREEDY, logit_bias={end: FORCE})
    answer = await driver.ask(PROMPT, forced)
    assert answer.token_ids == [end]
    assert answer.finish is not None
    assert answer.finish[:2] == (FinishReason.STOP, end)
    ignored = await driver.ask(PROMPT, replace(forced, ignore_eos=True, max_tokens=5))
    assert ignored.token_ids == [end] * 5
    assert ignored.finish is not None
    assert ignored.finish[:2] == (FinishReason.LENGTH, None)
    late = await driver.ask(PROMPT, replace(forced, min_tokens=5, top_logprobs=1))
    assert len(late.token_ids) == len(late.logprobs) == 6
    assert end not in late.token_ids[:5]
    assert late.token_ids[5] == end


async def test_a_prompt_that_is_continued_inside_reports_the_cache_of_its_first_part(driver: Driver) -> None:
    answer = await driver.ask(PROMPT, replace(GREEDY, min_tokens=4, logit_bias={END: FORCE}))
    assert answer.finish is not None
    assert answer.finish.cached_tokens == 0


async def test_seeds(driver: Driver) -> None:
    answers = {seed: (await driver.ask(PROMPT, replace(WARM, seed=seed))).token_ids for seed in (0, 1, -1, 1 << 62)}
    assert len({tuple(ids) for ids in answers.values()}) == len(answers)
    for seed, ids in answers.items():
        assert (await driver.ask(PROMPT, replace(WARM, seed=seed))).token_ids == ids
    parts = replace(WARM, seed=1, min_tokens=6, stop_token_ids=frozenset({0}))
    assert (await driver.ask(PROMPT, parts)).token_ids == (await driver.ask(PROMPT, parts)).token_ids


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}])
async def test_filters_that_leave_one_token(driver: Driver, narrow: dict[str, Any]) -> None:
    greedy = await driver.ask(PROMPT, replace(GREEDY, max_tokens=12, ignore_eos=True))
    answer = await driver.ask(PROMPT, replace(WARM, seed=3, **narrow))
    assert answer.token_ids == greedy.token_ids


async def test_temperature_comes_before_the_filters(driver: Driver) -> None:
    # Half as likely at temperature 2 is a quarter as likely at the model's own, where min_p would drop it.
    (row,) = (await driver.ask(PROMPT, replace(GREEDY, max_tokens=1, top_logprobs=0))).logprobs
    drawn = await driver.drawn(PROMPT, Sampling(temperature=2.0, min_p=0.5), range(64))
    behind = [row.logprob - await driver.logprob(PROMPT, token) for token in drawn]
    assert math.log(2) < max(behind) < math.log(4) + 0.001


async def test_logit_bias_bans(driver: Driver) -> None:
    favourite = (await driver.ask(PROMPT, GREEDY)).token_ids[0]
    answer = await driver.ask(PROMPT, replace(GREEDY, logit_bias={favourite: -100.0}))
    assert favourite not in answer.token_ids


@pytest.mark.parametrize(
    "penalty", [{"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"repetition_penalty": 1.9}]
)
async def test_penalties_make_repeats_rarer(driver: Driver, penalty: dict[str, Any]) -> None:
    plain = replace(GREEDY, max_tokens=64, ignore_eos=True)
    without = await driver.ask(PROMPT, plain)
    with_penalty = await driver.ask(PROMPT, replace(plain, **penalty))
    assert len(set(with_penalty.token_ids)) > len(set(without.token_ids))


async def test_logprobs_do_not_depend_on_sampling_parameters(driver: Driver) -> None:
    plain = await driver.ask(PROMPT, replace(GREEDY, max_tokens=1, top_logprobs=20))
    biased = await driver.ask(PROMPT, replace(WARM, max_tokens=1, top_logprobs=20, top_k=3, logit_bias={7: FORCE}))
    assert biased.token_ids == [7]
    assert [t for t, _ in biased.logprobs[0].top] == [t for t, _ in plain.logprobs[0].top]
    assert biased.logprobs[0].logprob < plain.logprobs[0].logprob


async def test_a_long_prompt_is_scored_whole_and_end_tokens_in_it_too(driver: Driver) -> None:
    prompt = [*range(150), END, FOREIGN_END, 129, *range(80)]
    _, slow = driver.submit(prompt, replace(GREEDY, max_tokens=2), prompt_logprobs=1)
    await slow.whole()
    again = await driver.ask(prompt, replace(GREEDY, max_tokens=2), prompt_logprobs=1)
    plain = await driver.ask(prompt, replace(GREEDY, max_tokens=2))

    assert [row.token_id for row in slow.prompt_logprobs] == prompt[1:]
    for place in (1, 64, 150, 151, 152, 232):
        row = slow.prompt_logprobs[place - 1]
        assert row.logprob == pytest.approx(await driver.logprob(prompt[:place], prompt[place]), abs=0.001)
        assert len(row.top) == 1
    assert [row.logprob for row in again.prompt_logprobs] == pytest.approx(
        [row.logprob for row in slow.prompt_logprobs], abs=0.001
    )
    assert slow.token_ids == again.token_ids == plain.token_ids
    assert again.finish is not None
    assert again.finish.cached_tokens == 0


async def test_abort_while_the_prompt_is_scored(driver: Driver) -> None:
    key, doomed = driver.submit([5] * 400, GREEDY, prompt_logprobs=0)
    while not doomed.prompt_logprobs:
        await asyncio.wait_for(doomed.changed.wait(), LIMIT_S)
        doomed.changed.clear()
    driver.engine.abort(key)
    assert (await doomed.whole()).reason == FinishReason.ABORTED
    assert len((await driver.ask(PROMPT, GREEDY)).token_ids) == GREEDY.max_tokens


async def test_allowed_ids_with_a_repetition_penalty_are_refused(driver: Driver) -> None:
    with pytest.raises(EngineRefusal) as refusal:
        driver.submit(PROMPT, replace(GREEDY, allowed_token_ids=frozenset({1, 2}), repetition_penalty=1.1))
    assert refusal.value.param == "allowed_token_ids"


async def test_abort_while_the_prompt_is_read(gguf: Path) -> None:
    async with driving(exact_engine(gguf, max_model_len=2048, batch_tokens=16)) as driver:
        key, long = driver.submit([5] * 2000, GREEDY)
        _, short = driver.submit(PROMPT, GREEDY)
        await short.tokens(2)  # a step of 16 tokens each: the long prompt has a hundred to go
        driver.engine.abort(key)
        assert (await long.whole()).reason == FinishReason.ABORTED
        assert long.token_ids == []
        await short.whole()
        assert len(short.token_ids) == GREEDY.max_tokens


async def test_a_short_prompt_is_answered_while_a_long_one_is_read(gguf: Path) -> None:
    async with driving(exact_engine(gguf, max_model_len=2048, batch_tokens=32)) as driver:
        _, long = driver.submit([5] * 2000, GREEDY)
        _, short = driver.submit(PROMPT, GREEDY)
        await short.whole()
        assert long.token_ids == []
        await long.whole()
        assert len(long.token_ids) == GREEDY.max_tokens


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("top_logprobs", 21),
        ("logit_bias", {VOCAB: 1.0}),
    ],
)
async def test_refusals_name_the_field(driver: Driver, field: str, value: object) -> None:
    with pytest.raises(EngineRefusal) as refusal:
        driver.submit(PROMPT, replace(GREEDY, **cast(Any, {field: value})))
    assert refusal.value.param == field


@pytest.mark.parametrize("bad", [-1, VOCAB, 1 << 40])
async def test_ids_outside_the_vocabulary_are_refused(driver: Driver, bad: int) -> None:
    with pytest.raises(EngineRefusal) as refusal:
        driver.submit([1, bad], GREEDY)
    assert refusal.value.param == "prompt_token_ids"


async def test_a_prefix_is_found_though_its_slot_is_busy(driver: Driver) -> None:
    await driver.ask(LONG, GREEDY)
    _, going_on = driver.submit(LONG, replace(GREEDY, max_tokens=200, ignore_eos=True))
    # Its slot has written its copy by then.
    await going_on.tokens(1)
    beside = await driver.ask([*LONG[:-1], 99], GREEDY)
    assert going_on.finish is None
    assert beside.finish is not None
    assert beside.finish.cached_tokens == len(LONG) - 1
    alone = await driver.ask([*LONG[:-1], 99], GREEDY, "another tenant")
    assert alone.finish is not None
    assert alone.finish.cached_tokens == 0
    assert alone.token_ids == beside.token_ids


async def test_what_a_slot_lost_comes_back_for_its_tenant_only(gguf: Path) -> None:
    async with driving(exact_engine(gguf, max_running=2)) as driver:
        first = await driver.ask(LONG, GREEDY, "a")
        for salt, cached in (("b", 0), ("c", 0), ("d", 0), ("a", len(LONG) - 1), ("b", len(LONG) - 1)):
            answer = await driver.ask(LONG, GREEDY, salt)
            assert answer.finish is not None
            assert answer.finish.cached_tokens == cached, salt
            assert answer.token_ids == first.token_ids
        assert _open_copies() == 4
    assert _open_copies() == 0


@pytest.mark.parametrize("broken", ["save", "restore", "restored badly"])
async def test_answers_do_not_depend_on_copies(gguf: Path, broken: str) -> None:
    called = set()

    class Slots:
        def save(self, slot: int, file: int) -> bool:
            called.add("save")
            if broken == "save":
                raise SlotCallError("no answer")
            return bool(calls.save(slot, file))

        def restore(self, slot: int, file: int) -> bool:
            called.add("restore")
            if broken == "restore":
                raise SlotCallError("no answer")
            return False

    async with driving(exact_engine(gguf, max_running=2)) as driver:
        server = cast(Any, driver.engine)._loaded.server
        calls = server.slots
        server.slots = Slots()
        first = await driver.ask(LONG, GREEDY, "a")
        await driver.ask(LONG, GREEDY, "b")
        await driver.ask(LONG, GREEDY, "c")
        again = await driver.ask(LONG, GREEDY, "a")
        assert again.token_ids == first.token_ids
        assert again.finish is not None
        assert again.finish.cached_tokens == 0, "what another tenant left in the slot is not used"
        assert not driver.failures
    assert called == ({"save"} if broken == "save" else {"save", "restore"})
    assert _open_copies() == 0


def _open_copies() -> int:
    """Returns how many states this process keeps."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum("qwenserve-prefix" in link for link in links)


async def test_more_requests_than_slots_are_refused(driver: Driver) -> None:
    answers = [driver.submit(PROMPT, GREEDY)[1] for _ in range(SLOTS)]
    with pytest.raises(EngineRefusal, match="slots"):
        driver.submit(PROMPT, GREEDY)
    for answer in answers:
        await answer.whole()
    await driver.ask(PROMPT, GREEDY)


async def test_churn_with_aborts_at_any_moment(driver: Driver) -> None:
    draw = random.Random(5)
    prompts = [[draw.randrange(256) for _ in range(draw.randrange(1, 90))] for _ in range(10)]
    sampling = replace(GREEDY, max_tokens=24, ignore_eos=True)
    expected = [(await driver.ask(p, sampling)).token_ids for p in prompts]

    async def client(number: int) -> None:
        draw = random.Random(number)
        for _ in range(12):
            which = draw.randrange(len(prompts))
            key, answer = driver.submit(prompts[which], sampling)
            if draw.random() < 0.5:
                await answer.tokens(draw.randrange(24))
                driver.engine.abort(key)
            finish = await answer.whole()
            assert answer.token_ids == expected[which][: len(answer.token_ids)]
            assert finish.reason == FinishReason.ABORTED or len(answer.token_ids) == 24

    await asyncio.gather(*(client(n) for n in range(SLOTS)))
    assert driver.engine.load().running == 0


async def test_stop_with_all_slots_busy_ends_every_request(gguf: Path) -> None:
    engine = exact_engine(gguf)
    driver = Driver(engine)
    await driver.start()
    answers = [driver.submit(PROMPT, replace(GREEDY, max_tokens=400, ignore_eos=True))[1] for _ in range(SLOTS)]
    await answers[0].tokens(1)
    await asyncio.wait_for(engine.stop(), LIMIT_S)
    assert {a.finish.reason for a in answers if a.finish is not None} == {FinishReason.ABORTED}
    assert all(a.finish is not None for a in answers)
    with pytest.raises(EngineRefusal, match="not running"):
        driver.submit(PROMPT, GREEDY)


async def test_it_listens_on_no_port_and_leaves_nothing_behind(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's own directories can be too long for a socket's address.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        before = _listening_ports()
        async with driving(exact_engine(gguf)) as driver:
            await driver.ask(PROMPT, GREEDY)
            assert _listening_ports() == before
            (private,) = Path(name).iterdir()
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
            assert [p.name for p in private.iterdir()] == ["engine.sock"]
        assert list(Path(name).iterdir()) == []


async def test_a_long_temporary_directory_is_no_obstacle(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("d" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    async with driving(exact_engine(gguf)) as driver:
        assert len((await driver.ask(PROMPT, GREEDY)).token_ids) == GREEDY.max_tokens


def _listening_ports() -> set[str]:
    """Returns the inodes of this process's listening TCP sockets."""
    mine = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            mine.add(os.readlink(f"/proc/self/fd/{fd}"))
    rows = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{name}").read_text().splitlines()
    ]
    return {row[9] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine}


async def test_openmp_does_not_spin(driver: Driver) -> None:
    assert os.environ["OMP_WAIT_POLICY"] == "passive"


async def test_a_broken_engine_says_so_once_and_fails_the_request(gguf: Path) -> None:
    class Broken:
        def complete(self, *_: object) -> None:
            raise RuntimeError("the model has gone")

        def close(self) -> None:
            pass

    engine = exact_engine(gguf)
    driver = Driver(engine)
    await driver.start()
    loaded = cast(Any, engine)._loaded
    healthy, loaded.server = loaded.server, Broken()
    for _ in range(2):
        _, answer = driver.submit(PROMPT, GREEDY)
        finish = await answer.whole()
        assert finish.reason == FinishReason.ABORTED
        assert "the model has gone" in finish.error
    assert len(driver.failures) == 1
    assert "restart" in str(driver.failures[0])
    await engine.stop()
    healthy.close()


@pytest.mark.parametrize("weights", list(WeightType))
async def test_all_number_formats_answer(directory: Path, cache: Path, weights: WeightType) -> None:
    gguf = engine_file(directory, weights, cache)
    async with driving(LlamaCppEngine(LlamaCppConfig(gguf, max_running=2, max_model_len=300, threads=1))) as driver:
        assert driver.info.max_model_len == 300
        answer = await driver.ask(PROMPT, replace(GREEDY, max_tokens=1000, ignore_eos=True))
        assert len(PROMPT) + len(answer.token_ids) == 300


_LEAVES_WITHOUT_STOP = """
import asyncio, sys
from pathlib import Path
from tests.contract.engine_contract import Driver
from tests.worker.engines.engines import exact_engine
from qwenserve.worker.engine_interface import Sampling

async def main():
    driver = Driver(exact_engine(Path(sys.argv[1]), max_model_len=2048))
    await driver.start()
    answers = [driver.submit([5] * 40, Sampling(max_tokens=2000, ignore_eos=True))[1] for _ in range(4)]
    await answers[0].tokens(2)
    sys.exit(7)

asyncio.run(main())
"""


async def test_a_process_that_leaves_with_requests_under_way_keeps_its_exit_code(gguf: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _LEAVES_WITHOUT_STOP,
        str(gguf),
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    _, errors = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert (process.returncode, errors) == (7, b"")


async def _start_error(engine: LlamaCppEngine) -> str:
    with pytest.raises(EngineError) as error:
        await engine.start(lambda chunks: None, lambda failure: None)
    await engine.stop()
    return str(error.value)


async def test_start_names_what_is_wrong(gguf: Path, tmp_path: Path) -> None:
    assert "does not exist" in await _start_error(exact_engine(tmp_path / "none.gguf"))
    assert "made for 2048" in await _start_error(exact_engine(gguf, max_model_len=2049))
    assert "end tokens" in await _start_error(exact_engine(gguf, end_token_ids=frozenset({VOCAB})))
    assert "max_running" in await _start_error(exact_engine(gguf, max_running=0))
    assert "raise batch_tokens" in await _start_error(exact_engine(gguf, batch_tokens=SLOTS))
    assert "KV cache" in await _start_error(exact_engine(gguf, max_running=1 << 20, batch_tokens=1 << 21))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:-1000])
    assert "cut short" in await _start_error(exact_engine(cut))
    cut.write_bytes(b"not a model at all, but longer than a header")
    assert "GGUF" in await _start_error(exact_engine(cut))
