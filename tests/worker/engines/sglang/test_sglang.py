"""The SGLang adapter without SGLang: its arguments, its requests, what it makes of answers, and the engine's death."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from qwenserve.runtime.block_hash import DEFAULT_BLOCK_TOKENS
from qwenserve.runtime.config import Config
from qwenserve.worker.engine_interface import (
    EngineError,
    EngineRefusal,
    EngineRequest,
    FinishReason,
    Guide,
    GuideKind,
    Sampling,
)
from qwenserve.worker.engines.sglang.arguments import SGLANG, engine_arguments, engine_environment
from qwenserve.worker.engines.sglang.reading import AnswerReader
from qwenserve.worker.engines.sglang.settings import Settings
from tests.contract.engine_contract import Driver, driving
from tests.contract.test_engine_sglang_double import engine_over
from tests.contract.test_engine_simulated import VOCABULARY
from tests.worker.engines.model_directories import THINK, text_of
from tests.worker.engines.sglang.double import SglangDouble

PROMPT = tuple(range(300, 312))
REGIONS = Guide(
    GuideKind.REGIONS,
    '{"regions":[{"begin":"<think>x","kind":4,"text":"[ab]{2}","end":"y"}],"free":false,"least":1,"most":1}',
)
# Of ServerArgs of release 0.5.17: what the adapter sets, and some that it leaves to options.
KNOWN = frozenset(
    [
        "model_path",
        "context_length",
        "max_running_requests",
        "skip_tokenizer_init",
        "incremental_streaming_output",
        "enable_priority_scheduling",
        "log_level",
        "sampling_defaults",
        "constrained_json_disable_any_whitespace",
        "grammar_backend",
        "dtype",
        "load_format",
        "tp_size",
        "quantization",
        "mem_fraction_static",
        "attention_backend",
        "enable_deterministic_inference",
    ]
)


def made(config=None, guides=True, **options):
    settings = Settings(options=options, guides=guides)
    return engine_arguments(config or Config(), settings, Path("m"), 40_960, KNOWN)


def test_arguments_are_those_that_sglang_has():
    arguments = made(tp_size=2, attention_backend="triton")
    assert arguments.keys() <= KNOWN
    assert (arguments["tp_size"], arguments["dtype"], arguments["max_running_requests"]) == (2, "bfloat16", 8)
    assert (arguments["grammar_backend"], arguments["skip_tokenizer_init"]) == ("llguidance", False)
    assert made(grammar_backend="xgrammar")["grammar_backend"] == "xgrammar"
    without = made(guides=False)
    assert (without["grammar_backend"], without["skip_tokenizer_init"]) == ("none", True)
    assert without.keys() <= KNOWN
    assert "dtype" not in made(quantization="fp8")


def test_a_window_leaves_what_sglang_keeps_free():
    assert made(Config.model_validate({"model": {"max_model_len": 2048}}))["context_length"] == 2054
    assert made(Config.model_validate({"model": {"max_model_len": 40_960}}))["context_length"] == 40_960
    assert made()["context_length"] == 40_960


def test_random_weights():
    config = Config.model_validate({"model": {"weights": "random"}})
    assert {"load_format": "dummy", "dtype": "auto"}.items() <= made(config).items()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tp_sizes": 2}, "did you mean tp_size"),
        ({"context_length": 5}, "decided by model.max_model_len"),
        ({"load_format": "dummy"}, "decided by model.weights"),
    ],
)
def test_options_that_are_refused(options, why):
    with pytest.raises(EngineError, match=why):
        made(Config.model_validate({"model": {"weights": "random"}}) if "load_format" in options else None, **options)


@pytest.mark.parametrize("weights", ["f32", "q8_0"])
def test_number_formats_that_sglang_lacks(weights):
    with pytest.raises(EngineError, match=weights):
        made(Config.model_validate({"model": {"weights": weights}}))


def test_the_environment():
    assert engine_environment(Settings()) == {"SGLANG_RETURN_ORIGINAL_LOGPROB": "1"}
    assert engine_environment(Settings(moe_kernels="/k"))["SGLANG_MOE_CONFIG_DIR"] == "/k"


@pytest.mark.parametrize(("version", "why"), [("", r"qwenserve\[sglang\]"), ("0.5.16", "0.5.16"), ("0.5.18", "0.5.18")])
def test_versions_that_are_not_taken(version, why):
    SGLANG.check_version("0.5.17")
    SGLANG.check_version("0.5.17.post1")
    with pytest.raises(EngineError, match=why):
        SGLANG.check_version(version)


async def test_a_process_that_is_gone():
    """Told by a signal to this process, which SGLang sends; requests would wait for ever."""
    double = SglangDouble()
    driver = Driver(engine_over(double))
    await driver.start()
    _, answer = driver.submit(PROMPT, Sampling(max_tokens=400, ignore_eos=True))
    await answer.tokens(2)
    os.kill(os.getpid(), signal.SIGQUIT)
    with pytest.raises(AssertionError, match="one of its processes is gone"):
        await answer.whole()
    assert len(driver.failures) == 1
    with pytest.raises(EngineRefusal, match="not running"):
        driver.submit(PROMPT, Sampling())
    await driver.engine.stop()
    assert double.closed == 1
    assert not asyncio.get_running_loop().remove_signal_handler(signal.SIGQUIT)


async def test_a_process_that_is_gone_before_the_first_id():
    double = SglangDouble()
    double.die()
    with pytest.raises(EngineError, match="has died"):
        await engine_over(double).start(lambda _: None, lambda _: None)
    assert double.closed == 1


async def test_an_abort_means_one_request():
    """SGLang takes the id of an abort for the beginning of ids: request 1 is not meant by 10."""
    double = SglangDouble()
    async with driving(engine_over(double)) as driver:
        for _ in range(9):
            await driver.ask(PROMPT, Sampling(max_tokens=1))
        key, first = driver.submit(PROMPT, Sampling(max_tokens=400, ignore_eos=True))
        await first.tokens(1)
        others = [driver.submit(PROMPT, Sampling(max_tokens=4, ignore_eos=True))[1] for _ in range(3)]
        driver.engine.abort(key)
        assert (await first.whole()).reason is FinishReason.ABORTED
        for other in others:
            assert (await other.whole()).reason is FinishReason.LENGTH
        ids = [fields["rid"] for fields in double.seen]
        assert not any(one != other and other.startswith(one) for one in ids for other in ids)


async def test_stop_tokens_that_sglang_does_not_look_for():
    """With ignore_eos it stops at none: the adapter does, and has the rest not computed."""
    double = SglangDouble()
    async with driving(engine_over(double)) as driver:
        whole = (await driver.ask(PROMPT, Sampling(temperature=0, max_tokens=16, ignore_eos=True))).token_ids
        stop = whole[4]
        sampling = Sampling(
            temperature=0, max_tokens=400, ignore_eos=True, stop_token_ids=frozenset({stop}), top_logprobs=1
        )
        answer = await driver.ask(PROMPT, sampling)
        assert answer.finish is not None
        assert answer.finish[:2] == (FinishReason.STOP, stop)
        assert answer.token_ids == whole[: whole.index(stop) + 1]
        assert len(answer.logprobs) == len(answer.token_ids)
        for _ in range(1000):
            if not double.running:
                break
            await asyncio.sleep(0)
        assert double.running == 0


async def test_fields_of_a_request():
    double = SglangDouble(vocabulary=VOCABULARY)
    async with driving(engine_over(double)) as driver:
        more = {"priority": 3, "traceparent": "00-ab-cd-01"}
        await driver.ask(PROMPT, Sampling(max_tokens=1, allowed_token_ids=frozenset({5, 6})), "tenant", **more)
        seen = double.seen[-1]
        assert (seen["priority"], seen["extra_key"]) == (3, "tenant")
        assert seen["external_trace_header"] == {"traceparent": "00-ab-cd-01"}
        assert seen["sampling_params"]["logit_bias"] == {"5": 400.0, "6": 400.0}
        assert "return_logprob" not in seen
        await driver.ask(PROMPT, Sampling(max_tokens=1, top_logprobs=0), prompt_logprobs=2)
        seen = double.seen[-1]
        assert (seen["return_logprob"], seen["logprob_start_len"], seen["top_logprobs_num"]) == (True, 0, 2)
        guide = Guide(GuideKind.CHOICE, '["a.b", "c"]')
        await driver.ask(PROMPT, Sampling(max_tokens=1, min_tokens=1, ignore_eos=True), guide=guide)
        seen = double.seen[-1]["sampling_params"]
        assert (seen["regex"], seen["ignore_eos"], "min_new_tokens" in seen) == (r"a\.b|c", False, False)
        with pytest.raises(EngineRefusal, match="from its beginning"):
            driver.submit(PROMPT, Sampling(), answer_offset=5, guide=Guide(GuideKind.REGEX, "a"))
        with pytest.raises(EngineRefusal, match="JSON array"):
            driver.submit(PROMPT, Sampling(), guide=Guide(GuideKind.CHOICE, "1"))
        assert driver.engine.load()[1:3] == (768 // DEFAULT_BLOCK_TOKENS, 1024 // DEFAULT_BLOCK_TOKENS)


async def test_regions_are_told_as_a_grammar():
    """Calls that must be made: SGLang follows the grammar of them, markers named by their ids."""
    double = SglangDouble(vocabulary=VOCABULARY)
    async with driving(engine_over(double)) as driver:
        answer = await driver.ask(PROMPT, Sampling(max_tokens=20), guide=REGIONS)
        assert "ebnf" in double.seen[-1]["sampling_params"]
        assert answer.token_ids[0] == THINK
        assert re.fullmatch("x[ab]{2}y", text_of([each for each in answer.token_ids if each < 256]))
        with pytest.raises(EngineRefusal, match="cannot be read"):
            driver.submit(PROMPT, Sampling(), guide=Guide(GuideKind.REGIONS, "{}"))


async def test_earlier_ids_of_an_answer_are_penalized():
    double = SglangDouble()
    async with driving(engine_over(double)) as driver:
        sampling = Sampling(max_tokens=1, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={7: 1.0})
        await driver.ask([*PROMPT, 7, 7, 8], sampling, answer_offset=len(PROMPT))
        assert double.seen[-1]["sampling_params"]["logit_bias"] == {"7": 0.0, "8": -0.75}


async def test_what_is_not_there_without_tokenizer_and_determinism_is_declared():
    async with driving(engine_over(SglangDouble(deterministic=False))) as driver:
        assert driver.info.unsupported_fields == {"seed", "min_tokens"}
        assert not driver.info.guide_kinds
        with pytest.raises(EngineRefusal, match="guides") as refusal:
            driver.submit(PROMPT, Sampling(min_tokens=2))
        assert refusal.value.param == "min_tokens"
        assert len((await driver.ask(PROMPT, Sampling(max_tokens=3))).token_ids) == 3


async def test_min_p_is_refused_where_seeds_count():
    """Its scheduler ends at such a request, and with it every answer of the worker."""
    async with driving(engine_over(SglangDouble())) as driver:
        assert driver.info.unsupported_fields == {"min_p", "min_tokens"}
        with pytest.raises(EngineRefusal, match="seeds") as refusal:
            driver.submit(PROMPT, Sampling(min_p=0.1))
        assert refusal.value.param == "min_p"
    async with driving(engine_over(SglangDouble(deterministic=False))) as driver:
        assert len((await driver.ask(PROMPT, Sampling(max_tokens=3, min_p=0.1))).token_ids) == 3


def test_an_answer_of_no_numbers_is_an_error():
    reader = AnswerReader(EngineRequest(1, PROMPT, Sampling()), frozenset({9}))
    ended = {"output_ids": [9], "meta_info": {"finish_reason": {"type": "stop", "matched": "NaN happened"}}}
    finish = reader.read(ended, aborted=False).finish
    assert finish is not None
    assert (finish.reason, finish.error) == (FinishReason.ABORTED, "SGLang: NaN happened")
