"""Greedy answers equal those of transformers, token for token: alone, eight at once, with a cached prefix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenserve.worker.engine_interface import Sampling
from qwenserve.worker.engines.llamacpp.gguf_files import WeightType, engine_file
from tests.contract.engine_contract import Answer, Driver, driving
from tests.worker.engines.engines import SLOTS, STEP_TOKENS, exact_engine
from tests.worker.engines.model_directories import write_model

RANDOM = json.loads(Path(__file__).with_name("random_greedy.json").read_text(encoding="utf-8"))["models"]
ROOT = Path(__file__).parents[3]
TRAINED = ROOT / "models" / "qwen3-tiny"
TRAINED_REFERENCE = ROOT / "tests" / "fixtures" / "greedy_reference.json"
EXPERTS = {"dense": 0, "experts": 8}
# With the trained model there is one more; its reference comes with its weights.
MODELS = [*EXPERTS, *(["trained"] if TRAINED_REFERENCE.exists() else [])]
# Sums in another order: 0.00004 has been seen.
LOGPROB_ERROR = 0.0005

Case = dict[str, Any]


@pytest.fixture(params=MODELS)
def reference(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[Case]]:
    """A model file in float32, and what transformers answers with it."""
    name = request.param
    if name == "trained":
        return engine_file(TRAINED, WeightType.F32, tmp_path), json.loads(TRAINED_REFERENCE.read_text())["cases"]
    return engine_file(write_model(tmp_path / name, experts=EXPERTS[name]), WeightType.F32, tmp_path), RANDOM[name]


def _sampling(case: Case) -> Sampling:
    return Sampling(temperature=0.0, max_tokens=len(case["output_ids"]), ignore_eos=True, top_logprobs=0)


def _beginning(case: Case) -> Case:
    """As much of a case as shows, to the log-probability, that a prefix was there as it should be."""
    return {**case, "output_ids": case["output_ids"][:16], "logprobs": case["logprobs"][:16]}


def _check(answer: Answer, case: Case) -> None:
    assert answer.token_ids == case["output_ids"]
    errors = [abs(row.logprob - value) for row, value in zip(answer.logprobs, case["logprobs"], strict=True)]
    assert max(errors) < LOGPROB_ERROR


def _window(cases: list[Case]) -> int:
    longest = max(len(c["prompt_ids"]) + len(c["output_ids"]) for c in cases)
    return -(-longest // 256) * 256


async def test_one_at_a_time_with_and_without_a_cached_prefix(reference: tuple[Path, list[Case]]) -> None:
    gguf, cases = reference
    async with driving(exact_engine(gguf, max_running=2, max_model_len=_window(cases))) as driver:
        reused: list[int] = []
        for case in (*cases, *map(_beginning, cases)):
            answer = await driver.ask(case["prompt_ids"], _sampling(case))
            _check(answer, case)
            assert answer.finish is not None
            reused.append(answer.finish.cached_tokens)
        # Others have had both slots meanwhile: long prompts come back from copies of their states.
        for case, first, second in zip(cases, reused[: len(cases)], reused[len(cases) :], strict=True):
            prompt = len(case["prompt_ids"])
            assert first <= second < prompt
            if prompt - first > STEP_TOKENS and first < STEP_TOKENS:
                assert second == prompt - 1
        case = cases[-1]
        answer = await driver.ask(case["prompt_ids"], _sampling(case))
        _check(answer, case)
        assert answer.finish is not None
        assert answer.finish.cached_tokens == len(case["prompt_ids"]) - 1, "the slot has it"


async def test_eight_at_once_with_and_without_a_cached_prefix(reference: tuple[Path, list[Case]]) -> None:
    gguf, cases = reference
    async with driving(exact_engine(gguf, max_model_len=_window(cases))) as driver:
        for turn in range(2):
            for first in range(0, len(cases), SLOTS):
                some = cases[first : first + SLOTS]
                if turn:
                    some = list(map(_beginning, some))
                await _together(driver, some, reused=turn == 1 and len(cases) <= SLOTS)


async def _together(driver: Driver, cases: list[Case], *, reused: bool) -> None:
    answers = [driver.submit(case["prompt_ids"], _sampling(case))[1] for case in cases]
    for answer, case in zip(answers, cases, strict=True):
        finish = await answer.whole()
        _check(answer, case)
        if reused:
            assert finish.cached_tokens == len(case["prompt_ids"]) - 1
