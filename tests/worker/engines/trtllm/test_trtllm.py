"""The TensorRT-LLM adapter over its stand-in: what arrives, what is cancelled, what dies, what is refused."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from llguidance import LLMatcher

from qwenserve.runtime.block_hash import block_hashes
from qwenserve.runtime.config import Config
from qwenserve.worker.engine_interface import EngineError, EngineRefusal, FinishReason, Guide, GuideKind, Sampling
from qwenserve.worker.engines.trtllm.block_events import BlockEvents
from qwenserve.worker.engines.trtllm.native import Package
from qwenserve.worker.engines.trtllm.options import engine_arguments, translated
from qwenserve.worker.engines.trtllm.preflight import Demand, Machine, problems
from qwenserve.worker.engines.trtllm.settings import Settings
from qwenserve.worker.engines.trtllm.versions import Has, check_version
from tests.contract.engine_contract import Driver, driving
from tests.contract.test_engine_trtllm_double import engine_over_double
from tests.worker.engines.trtllm import api_1_2_1 as api
from tests.worker.engines.trtllm.double import CONFIG, RequestError, install

PROMPT = tuple(range(300, 312))
GIB = 1 << 30


@pytest.fixture
def llm(monkeypatch):
    return install(monkeypatch)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=0.0), {"top_k": 1, "temperature": 1.0, "top_p": None}),
        (Sampling(temperature=0.7, top_p=0.9, top_k=40), {"temperature": 0.7, "top_p": 0.9, "top_k": 40}),
        (Sampling(top_k=0), {"top_k": 0}),
        (Sampling(min_p=0.05), {"min_p": 0.05}),
        (Sampling(seed=-1), {"seed": 2**64 - 1}),
        (Sampling(seed=2**63 - 1), {"seed": 2**63 - 1}),
        (Sampling(presence_penalty=1.5), {"presence_penalty": 1.5}),
        (Sampling(frequency_penalty=-0.5), {"frequency_penalty": -0.5}),
        (Sampling(repetition_penalty=1.2), {"repetition_penalty": 1.2}),
        (Sampling(), {"end_id": 998, "pad_id": 998, "ignore_eos": True, "stop_token_ids": [998, 999]}),
        (Sampling(ignore_eos=True), {"ignore_eos": True, "stop_token_ids": None}),
        (Sampling(stop_token_ids=frozenset({7}), ignore_eos=True), {"stop_token_ids": [7]}),
        (Sampling(min_tokens=3), {"min_tokens": 3, "ignore_eos": False, "end_id": 998, "stop_token_ids": [999]}),
        (Sampling(top_logprobs=0), {"logprobs": 1}),
        (Sampling(top_logprobs=5), {"logprobs": 5}),
        (Sampling(), {"logprobs": None, "detokenize": False, "include_stop_str_in_output": True, "stop": None, "n": 1}),
    ],
)
async def test_each_field_arrives(llm, sampling, expected):
    async with driving(engine_over_double()) as driver:
        await driver.ask(PROMPT, sampling)
        seen = llm.made[0].seen[-1]
        assert {name: getattr(seen, name) for name in expected} == expected


async def test_bias_allowed_ids_and_where_the_answer_began(llm):
    async with driving(engine_over_double()) as driver:
        sampling = Sampling(logit_bias={5: 2.5, 6: -100.0}, allowed_token_ids=frozenset({5, 6}))
        await driver.ask(PROMPT, sampling, answer_offset=10)
        seen = llm.made[0].seen[-1]
        assert seen.embedding_bias[5:7] == [2.5, -100.0]
        assert len(seen.embedding_bias) == CONFIG.vocab_size
        assert max(seen.embedding_bias[:5] + seen.embedding_bias[7:]) < -1e8
        assert seen.prompt_ignore_length == 10


async def test_a_salt_and_ids_alone_are_passed(llm):
    async with driving(engine_over_double()) as driver:
        await driver.ask(PROMPT, Sampling(), "tenant", traceparent="00-ab-cd-01")
        call = llm.made[0].calls[-1]
        assert call["cache_salt"] == "tenant"
        assert call["trace_headers"] == {"traceparent": "00-ab-cd-01"}
        assert call["inputs"] == {"prompt_token_ids": list(PROMPT)}
        await driver.ask(PROMPT, Sampling())
        assert "cache_salt" not in llm.made[0].calls[-1]


async def test_what_is_left_is_aborted_and_what_ended_is_not(llm):
    async with driving(engine_over_double()) as driver:
        key, answer = driver.submit(PROMPT, Sampling(max_tokens=400, ignore_eos=True))
        await answer.tokens(2)
        (result,) = llm.made[0].results.values()
        driver.engine.abort(key)
        assert (await answer.whole()).reason == FinishReason.ABORTED
        assert result.aborts == 1
        _, whole = driver.submit(PROMPT, Sampling(max_tokens=2))
        await whole.tokens(1)
        for ended in llm.made[0].results.values():
            await whole.whole()
            assert ended.aborts == 0


async def test_an_error_of_one_request_is_its_own(llm):
    async with driving(engine_over_double()) as driver:
        _, answer = driver.submit(PROMPT, Sampling(max_tokens=400, ignore_eos=True))
        await answer.tokens(1)
        next(iter(llm.made[0].results.values()))._steps.put_nowait(RequestError("too much"))
        finish = await answer.whole()
        assert (finish.reason, "too much" in finish.error) == (FinishReason.ABORTED, True)
        assert len((await driver.ask(PROMPT, Sampling(max_tokens=3, ignore_eos=True))).token_ids) == 3


async def test_any_other_error_is_the_engines_death(llm):
    driver = Driver(engine_over_double())
    await driver.start()
    _, answer = driver.submit(PROMPT, Sampling(max_tokens=400, ignore_eos=True))
    await answer.tokens(1)
    llm.made[0].die(RuntimeError("a rank raised"))
    with pytest.raises(AssertionError, match="a rank raised"):
        await answer.whole()
    assert len(driver.failures) == 1
    with pytest.raises(EngineRefusal, match="not running"):
        driver.submit(PROMPT, Sampling())
    await driver.engine.stop()
    assert llm.made[0].shutdowns == 1


async def test_a_death_without_requests_is_seen(llm):
    driver = Driver(engine_over_double())
    await driver.start()
    llm.made[0].die(RuntimeError("gone"))

    async def told():
        while not driver.failures:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await asyncio.wait_for(told(), 30)
    await driver.engine.stop()


async def test_a_shutdown_that_hangs_ends_the_process(llm):
    left: list[int] = []
    release = threading.Event()
    engine = engine_over_double(leave=left.append, stop_timeout_s=0.05)
    await Driver(engine).start()
    llm.made[0].shutdown = release.wait
    await engine.stop()
    release.set()
    assert left == [1]


async def test_statistics_become_load(llm):
    async with driving(engine_over_double()) as driver:

        async def told():
            while driver.engine.load().total_kv_blocks != 40:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        await asyncio.wait_for(told(), 30)
        assert driver.engine.load()[1:] == (30, 40, 7)


async def test_guides_arrive_and_the_middle_of_one_is_refused(llm):
    async with driving(engine_over_double(guides=True)) as driver:
        await driver.ask(PROMPT, Sampling(max_tokens=1), guide=Guide(GuideKind.CHOICE, '["a.b", "c"]'))
        assert llm.made[0].seen[-1].guided_decoding.regex == r"a\.b|c"
        await driver.ask(PROMPT, Sampling(max_tokens=1), guide=Guide(GuideKind.JSON_SCHEMA, "{}"))
        assert llm.made[0].seen[-1].guided_decoding.json == "{}"
        assert GuideKind.REGIONS not in driver.info.guide_kinds
        with pytest.raises(EngineRefusal, match="from its beginning"):
            driver.submit(PROMPT, Sampling(), answer_offset=5, guide=Guide(GuideKind.REGEX, "a"))


async def test_regions_are_told_as_a_grammar(llm):
    region = '{"begin":"<think>x","kind":4,"text":"a/b","end":"y"}'
    guide = Guide(GuideKind.REGIONS, f'{{"regions":[{region}],"free":true,"least":0,"most":0}}')
    async with driving(engine_over_double(guides=True, special_ids={"<think>": 7, "<x>": 8})) as driver:
        await driver.ask(PROMPT, Sampling(max_tokens=1), guide=guide)
        grammar = llm.made[0].seen[-1].guided_decoding.grammar
        assert LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar), None) == ""
        assert {'region_0: <[7]> "x" inner_0 "y"', "inner_0: /a\\/b/", "free: TEXT | <[8]>"} <= {*grammar.splitlines()}


async def test_what_the_plain_sampler_ignores_is_declared(llm):
    async with driving(engine_over_double(penalty_sampler=False)) as driver:
        assert {"seed", "min_p", "presence_penalty"} <= driver.info.unsupported_fields


def has(call=(), sampling=()):
    return Has(
        frozenset({*api.GENERATE_ASYNC, *call}), frozenset({*api.SAMPLING, *sampling}), frozenset(api.LLM_ARGUMENTS)
    )


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "1.2.1", "1.2.1.post1", "1.3.0rc14", "1.4.0rc1"])
def test_versions_that_are_taken(version):
    check_version(version, has())


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("1.2.0", "mixes up KV blocks"),
        ("1.2.0+cu13", "mixes up"),
        ("0.21.0", "not one of"),
        ("2.0", "not one of"),
        ("x", "no version"),
    ],
)
def test_versions_that_are_not(version, why):
    with pytest.raises(EngineError, match=why):
        check_version(version, has())


def test_a_signature_that_is_another_is_refused():
    with pytest.raises(EngineError, match="streaming"):
        check_version("1.3.0rc99", has()._replace(call=frozenset({"inputs", "sampling_params"})))


def test_a_package_that_is_missing_is_named():
    with pytest.raises(EngineError, match=r"qwenserve\[trtllm\]"):
        Package(built_engine=False)


def test_a_built_engine_where_the_version_runs_none(llm, monkeypatch):
    import sys

    assert Package(built_engine=True).version == "1.2.1"
    monkeypatch.delattr(sys.modules["tensorrt_llm._tensorrt_engine"], "LLM")
    with pytest.raises(EngineError, match="runs none any more"):
        Package(built_engine=True)


def test_the_layout_of_older_examples():
    older: dict[str, Any] = {
        "tensor_parallel_size": 4,
        "pytorch_backend_config": {
            "use_cuda_graph": True,
            "cuda_graph_batch_sizes": [1, 2],
            "cuda_graph_padding_enabled": True,
            "enable_overlap_scheduler": True,
            "kv_cache_dtype": "fp8",
            "moe_backend": "TRTLLM",
            "enable_trtllm_sampler": True,
            "mixed_sampler": True,
        },
    }
    options, notes = translated(older)
    assert options == {
        "tensor_parallel_size": 4,
        "cuda_graph_config": {"batch_sizes": [1, 2], "enable_padding": True},
        "disable_overlap_scheduler": False,
        "kv_cache_config": {"dtype": "fp8"},
        "moe_config": {"backend": "TRTLLM"},
        "sampler_type": "TRTLLMSampler",
    }
    for name in ("pytorch_backend_config", *older["pytorch_backend_config"]):
        assert any(note.startswith(name) for note in notes), name
    assert translated({"use_cuda_graph": False, "cuda_graph_max_batch_size": 4}).options == {"cuda_graph_config": None}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"kv_cache_dtype": "fp8", "kv_cache_config": {"dtype": "auto"}}, "contradict"),
        ({"enable_overlap_scheduler": True, "disable_overlap_scheduler": True}, "contradict"),
        ({"pytorch_backend_config": {"attn_backend": "TRTLLM"}, "attn_backend": "TRTLLM"}, "inside and outside"),
        ({"pytorch_backend_config": 1}, "keys below"),
        ({"max_seq_len": 9}, "model.max_model_len"),
        ({"max_num_token": 9}, "did you mean max_num_tokens"),
        ({"kv_cache_config": 3}, "keys below"),
    ],
)
def test_options_that_are_refused(tmp_path, options, why):
    with pytest.raises(EngineError, match=why):
        engine_arguments(Config(), Settings(), tmp_path, translated(options).options, api.LLM_ARGUMENTS)


def test_options_stand_beside_our_own(tmp_path):
    made = engine_arguments(
        Config(), Settings(), tmp_path, {"kv_cache_config": {"dtype": "fp8"}, "stream_interval": 4}, api.LLM_ARGUMENTS
    )
    assert made["kv_cache_config"] == {"event_buffer_max_size": 8192, "dtype": "fp8"}
    assert (made["stream_interval"], made["max_batch_size"], made["sampler_type"]) == (4, 8, "TRTLLMSampler")


def test_nested_options_become_objects(llm):
    package = Package(built_engine=False)
    package.load({"model": "m", "speculative_config": {"decoding_type": "MTP", "max_draft_len": 2}})
    made = llm.made[0].arguments["speculative_config"]
    assert (type(made).__name__, made.max_draft_len) == ("MTPDecodingConfig", 2)
    for wrong in ({"kv_cache_config": {"nonsense": 1}}, {"speculative_config": {"decoding_type": "X"}}, {"unknown": 1}):
        with pytest.raises(EngineError, match="could not load"):
            package.load({"model": "m", **wrong})


def stored(number, parent, blocks, window=4096, **more):
    return {
        "event_id": number,
        "window_size": window,
        "data": {
            "type": "stored",
            "parent_hash": parent,
            "blocks": [{"block_hash": name, "tokens": [{"token_id": t} for t in ids], **more} for name, ids in blocks],
        },
    }


def test_cache_events_in_our_hashes():
    events, ids = BlockEvents(4), list(range(12))
    ours = list(block_hashes(ids, 4))
    events.take(stored(0, None, [(90, ids[:4]), (91, ids[4:8])]))
    events.take(stored(1, 91, [(92, ids[8:12]), (93, [1, 2])]))
    events.take(stored(2, 91, [(94, ids[8:12])], window=128))
    events.take({"event_id": 3, "window_size": 4096, "data": {"type": "removed", "block_hashes": [92, 77]}})
    assert [list(event.stored) for event in events.fetch()] == [ours[:2], ours[2:], []]
    assert events.fetch() == []
    events.take({"event_id": 9, "window_size": 4096, "data": {"type": "removed", "block_hashes": [90]}})
    events.take(stored(10, None, [(95, ids[:4])]))
    beginning, after = events.fetch()
    assert (beginning.sequence, beginning.stored) == (4, ())  # 3 is missing: something was lost
    assert (after.sequence, list(after.stored)) == (5, ours[:1])


def test_a_gap_is_told_of_though_nothing_else_can_be():
    events, ids = BlockEvents(4), list(range(12))
    events.take(stored(0, None, [(90, ids[:4])]))
    assert [event.sequence for event in events.fetch()] == [0]
    events.take(stored(5, 90, [(91, ids[4:8])]))
    assert [event.sequence for event in events.fetch()] == [2]


GOOD = Machine(4, (9, 0), 70 * GIB, 16 * GIB, -1)


@pytest.mark.parametrize(
    ("machine", "demand", "why"),
    [
        (GOOD._replace(gpus=0), Demand(1, 0), "0 are here"),
        (GOOD._replace(gpus=2), Demand(4, 0), "--gpus all"),
        (GOOD._replace(capability=(8, 0)), Demand(1, 0, ("FP8",)), "8.9"),
        (GOOD, Demand(1, 0, ("NVFP4",)), "10.0"),
        (GOOD, Demand(1, 140 * GIB), "140.0 GiB"),
        (GOOD._replace(shared_memory=64 << 20), Demand(2, 0), "--shm-size"),
        (GOOD._replace(memlock=64 << 10), Demand(2, 0), "memlock"),
    ],
)
def test_preflight(machine, demand, why):
    assert any(why in line for line in problems(machine, demand))
    assert problems(GOOD, Demand(4, 200 * GIB, ("FP8",))) == []
