"""The vLLM adapter without vLLM: its arguments, its requests, its cache events, and the core's death."""

from __future__ import annotations

from pathlib import Path

import pytest
from llguidance import LLMatcher, grammar_from

from qwenserve.runtime.block_hash import block_hashes
from qwenserve.runtime.config import Config
from qwenserve.worker.cache_ledger import CacheLedger
from qwenserve.worker.engine_interface import EngineError, EngineRefusal, FinishReason, Guide, GuideKind, Sampling
from qwenserve.worker.engines.vllm.arguments import VLLM, engine_arguments, engine_environment
from qwenserve.worker.engines.vllm.block_events import BlockEvents
from qwenserve.worker.engines.vllm.engine import VllmConfig, VllmEngine
from qwenserve.worker.engines.vllm.settings import Settings
from tests.contract.engine_contract import Driver, driving
from tests.worker.engines.vllm.double import VllmDouble

PROMPT = tuple(range(300, 312))
REGIONS = Guide(
    GuideKind.REGIONS,
    '{"regions":[{"begin":"<think>x","kind":4,"text":"[ab]{2}","end":"y"}],"free":false,"least":1,"most":1}',
)
KNOWN = frozenset({"dtype", "tensor_parallel_size", "speculative_config", "model", "load_format", "max_model_len"})


def engine(double, **more):
    config = VllmConfig(
        load=lambda _: double,
        eos_token_ids=frozenset(double.config.eos_token_ids),
        max_running=4,
        guides=True,
        kv_events=False,
    )
    return VllmEngine(config._replace(**more))


def made(config=None, events="", **options):
    return engine_arguments(config or Config(), Settings(options=options), Path("m"), KNOWN, events)


def test_arguments():
    arguments = made(tensor_parallel_size=2)
    assert arguments["tensor_parallel_size"] == 2
    assert (arguments["dtype"], arguments["max_num_seqs"]) == ("bfloat16", 8)
    assert "kv_events_config" not in arguments
    assert made(events="ipc://x")["kv_events_config"]["endpoint"] == "ipc://x"
    config = Config.model_validate({"model": {"weights": "random", "max_model_len": 99}})
    assert {"load_format": "dummy", "max_model_len": 99}.items() <= made(config).items()
    assert made(dtype="float32")["dtype"] == "float32"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tensor_parallel_sizes": 2}, "did you mean tensor_parallel_size"),
        ({"max_model_len": 5}, "decided by model.max_model_len"),
    ],
)
def test_options_that_are_refused(options, why):
    with pytest.raises(EngineError, match=why):
        made(**options)


def test_number_formats_that_vllm_lacks():
    with pytest.raises(EngineError, match="q8_0"):
        made(Config.model_validate({"model": {"weights": "q8_0"}}))


def test_the_folder_of_tuned_kernels():
    assert engine_environment(Settings(moe_kernels="/k"))["VLLM_TUNED_CONFIG_FOLDER"] == "/k"


@pytest.mark.parametrize(("version", "why"), [("", r"qwenserve\[vllm\]"), ("0.25.1", "0.25.1"), ("0.27.0", "0.27.0")])
def test_versions_that_are_not_taken(version, why):
    VLLM.check_version("0.26.3")
    with pytest.raises(EngineError, match=why):
        VLLM.check_version(version)


@pytest.mark.parametrize("through_core", [True, False])
async def test_the_cores_death(through_core):
    double = VllmDouble(core_is_known=through_core)
    driver = Driver(engine(double))
    await driver.start()
    _, answer = driver.submit(PROMPT, Sampling(max_tokens=400, ignore_eos=True))
    await answer.tokens(2)
    double.die()
    with pytest.raises(AssertionError, match="core has died"):
        await answer.whole()
    assert len(driver.failures) == 1
    with pytest.raises(EngineRefusal, match="not running"):
        driver.submit(PROMPT, Sampling())
    await driver.engine.stop()
    assert double.closed == 1


async def test_a_core_that_dies_at_the_first_id():
    double = VllmDouble()
    double.die()
    with pytest.raises(EngineError, match="core has died"):
        await engine(double).start(lambda _: None, lambda _: None)
    assert double.closed == 1


@pytest.mark.parametrize("through_core", [True, False])
async def test_guides(through_core):
    double = VllmDouble(core_is_known=through_core)
    async with driving(engine(double)) as driver:
        await driver.ask(PROMPT, Sampling(max_tokens=1, min_tokens=1), guide=Guide(GuideKind.CHOICE, '["a"]'))
        seen = double.seen[-1]
        assert (seen["structured"], seen["min_tokens"]) == (("choice", ["a"]), 0)
        bad = await driver.ask(PROMPT, Sampling(max_tokens=1), guide=Guide(GuideKind.REGEX, "bad"))
        assert bad.finish is not None
        assert (bad.finish.reason, bad.finish.error) == (FinishReason.ABORTED, "guide: bad grammar")
        with pytest.raises(EngineRefusal, match="from its beginning"):
            driver.submit(PROMPT, Sampling(), answer_offset=5, guide=Guide(GuideKind.REGEX, "a"))


async def test_regions_are_told_as_a_grammar():
    """Calls that must be made, and text with calls in it; only where the tokens that begin them are known."""
    double = VllmDouble()
    async with driving(engine(double, special_ids={"<think>": 7})) as driver:
        await driver.ask(PROMPT, Sampling(max_tokens=1), guide=REGIONS)
        name, grammar = double.seen[-1]["structured"]
        assert name == "grammar"
        assert 'region_0: <[7]> "x" inner_0 "y"' in grammar
        assert LLMatcher.validate_grammar(grammar_from("grammar", grammar), None) == ""
    async with driving(engine(VllmDouble())) as driver:
        assert GuideKind.REGIONS not in driver.info.guide_kinds


async def test_traces_go_on_in_vllm():
    double = VllmDouble(core_is_known=False)
    async with driving(engine(double)) as driver:
        await driver.ask(PROMPT, Sampling(max_tokens=1), traceparent="00-ab-cd-01")
        assert double.traced[-1] == "00-ab-cd-01"


async def test_load_and_priority():
    double = VllmDouble()
    async with driving(engine(double)) as driver:
        await driver.ask(PROMPT, Sampling(max_tokens=2), priority=3)
        assert driver.engine.load()[1:3] == (750, 1000)


async def test_earlier_ids_of_an_answer_are_penalized():
    double = VllmDouble()
    async with driving(engine(double)) as driver:
        sampling = Sampling(max_tokens=1, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={7: 1.0})
        await driver.ask([*PROMPT, 7, 7, 8], sampling, answer_offset=len(PROMPT))
        assert double.seen[-1]["logit_bias"] == {7: 0.0, 8: -0.75}


async def test_more_stop_tokens_than_vllm_has_room_for():
    async with driving(engine(VllmDouble())) as driver:
        many = frozenset(range(200))
        with pytest.raises(EngineRefusal, match="128 at most") as refusal:
            driver.submit(PROMPT, Sampling(min_tokens=1, stop_token_ids=many))
        assert refusal.value.param == "stop_token_ids"
        await driver.ask(PROMPT, Sampling(max_tokens=1, stop_token_ids=many))


def stored(names, ids, before=None, salt=None, **more):
    keys = [(salt,) if salt else None] + [None] * (len(names) - 1)
    return {
        "type": "BlockStored",
        "block_hashes": names,
        "parent_block_hash": before,
        "token_ids": ids,
        "block_size": 4,
        "extra_keys": keys,
        **more,
    }


def test_cache_events_in_our_hashes():
    events, ids = BlockEvents(), list(range(12))
    plain, salted = list(block_hashes(ids, 4)), list(block_hashes(ids, 4, "tenant"))
    events.take(0, [stored([90, 91], ids[:8]), stored([92], ids[8:], before=91)])
    events.take(1, [stored([70, 71, 72], ids, salt="tenant"), stored([60], ids[:4], group_idx=1)])
    events.take(2, [{"type": "BlockRemoved", "block_hashes": [92, 5]}])
    events.take(3, [{"type": "AllBlocksCleared"}])
    first, second, third, last = events.fetch()
    assert (first.stored, second.stored, third.removed) == (plain, salted, plain[2:])
    assert set(last.removed) == {*plain[:2], *salted}
    assert [first.sequence, second.sequence, third.sequence, last.sequence] == [0, 1, 2, 3]
    events.take(4, [stored([93], ids[8:], before=91)])
    assert events.fetch() == []


def known(events, ledger):
    """What a worker that reads these events tells routers."""
    ledger.take(events.fetch())
    return set(ledger.copy())


def test_after_a_lost_message_blocks_are_told_again_once_they_are_certain():
    events, ledger, ids = BlockEvents(), CacheLedger(), list(range(16))
    ours = list(block_hashes(ids, 4))
    other = list(block_hashes([9, *ids], 4))
    events.take(0, [stored([90, 91, 92], ids[:12]), stored([80, 81], [9, *ids[:7]])])
    assert known(events, ledger) == {*ours[:3], *other[:2]}
    events.take(2, [])
    assert known(events, ledger) == set()

    # Behind 91 something is stored: it and 90 are there. Nothing is known of 92, nor of the other prompt.
    events.take(3, [stored([95], [7, 7, 7, 7], before=91)])
    assert known(events, ledger) == {*ours[:2], *block_hashes([*ids[:8], 7, 7, 7, 7], 4)}
    events.take(4, [stored([93], ids[12:], before=92)])
    assert set(ours) <= known(events, ledger)
    events.take(5, [{"type": "BlockRemoved", "block_hashes": [80, 93]}])
    assert not {ours[3], *other} & known(events, ledger)


def test_a_reader_that_never_comes_starts_over():
    events, ids = BlockEvents(), list(range(8))
    for number in range(10_100):
        events.take(number, [stored([number], [number, *ids[:3]])])
    waiting = events.fetch()
    assert len(waiting) <= 10_000
    assert [event.sequence for event in waiting] == list(range(waiting[0].sequence, waiting[-1].sequence + 1))
    assert waiting[0].sequence > 10_000


def test_where_news_cannot_be_read_any_more_what_was_told_is_forgotten():
    events, ledger = BlockEvents(), CacheLedger()
    events.take(0, [stored([90], list(range(4)))])
    assert known(events, ledger)
    events.lost()
    assert not known(events, ledger)
