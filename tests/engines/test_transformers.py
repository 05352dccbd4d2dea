"""The transformers engine keeps the contract, and its greedy ids are those of the fixture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (qwenserve[transformers])")

from qwenserve.runtime.config import load_config
from qwenserve.worker.engine_choice import build_engine, engine_settings
from qwenserve.worker.engine_interface import Engine, Sampling
from tests.contract.engine_contract import EngineContract, driving
from tests.worker.engines.model_directories import text_of, write_model

ROOT = Path(__file__).parents[2]
TRAINED = ROOT / "models" / "qwen3-tiny"
REFERENCE = json.loads((ROOT / "tests" / "fixtures" / "greedy_reference.json").read_text(encoding="utf-8"))["cases"]


def engine_of(model: Path, **settings: object) -> Engine:
    overrides = {"worker.engine": "transformers", "model.reference": str(model), **settings}
    return build_engine(load_config(environment={}, overrides=overrides, engines=engine_settings()).config).engine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


class TestTransformersEngine(EngineContract):
    prompt = tuple(range(100, 112))

    @pytest.fixture(autouse=True)
    def _model(self, model: Path) -> None:
        self._directory = model

    def use_model_below(self, folder: Path) -> None:
        """Makes the model that the engine runs."""
        self._directory = write_model(folder / "transformers")

    def text_of(self, token_ids: Sequence[int]) -> str:
        return text_of(token_ids)

    def make_engine(self) -> Engine:
        return engine_of(
            self._directory,
            **{"model.max_model_len": 512, "worker.max_running": 4, "worker.transformers.prefill_tokens": 32},
        )


async def test_greedy_ids_are_those_of_the_fixture_one_by_one_and_beside_each_other() -> None:
    async with driving(engine_of(TRAINED)) as driver:
        greedy = Sampling(temperature=0.0, ignore_eos=True, top_logprobs=0)
        samplings = [replace(greedy, max_tokens=len(case["output_ids"])) for case in REFERENCE]
        together = [
            driver.submit(case["prompt_ids"], sampling)[1]
            for case, sampling in zip(REFERENCE[:8], samplings, strict=False)
        ]
        for case, answer in zip(REFERENCE, together, strict=False):
            await answer.whole()
            assert answer.token_ids == case["output_ids"], case["name"]
        for case, sampling in zip(REFERENCE, samplings, strict=True):
            answer = await driver.ask(case["prompt_ids"], sampling)
            assert answer.token_ids == case["output_ids"], case["name"]
            assert [row.logprob for row in answer.logprobs] == pytest.approx(case["logprobs"], abs=0.0005)
