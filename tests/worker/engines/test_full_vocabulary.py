"""Vocabularies of real size: the repository's small model, and Qwen3's own where it lies beside the repository."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qwenserve.worker.engines.llamacpp.gguf_files import WeightType, engine_file, read_facts
from qwenserve.worker.engines.llamacpp.gguf_files.vocabulary import from_tokenizer_json
from qwenserve.worker.engines.llamacpp.random_model import make_random_model
from tests.contract.engine_contract import GREEDY, driving
from tests.fixtures.full_tokenizer import FULL_TOKENIZER, TINY_MODEL, has_full_tokenizer
from tests.worker.engines.engines import exact_engine
from tests.worker.engines.model_directories import write_model

QWEN3_IDS = 151_936


@pytest.mark.skipif(not has_full_tokenizer(), reason="Qwen3's tokenizer is not beside the repository")
def test_qwen3_has_1448_tokens_that_end_inside_a_character() -> None:
    tokenizer = json.loads((FULL_TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
    words = from_tokenizer_json(tokenizer, QWEN3_IDS)
    assert len(words.replaced) == 1448
    assert len(set(words.texts)) == QWEN3_IDS


@pytest.mark.skipif(not has_full_tokenizer(), reason="Qwen3's tokenizer is not beside the repository")
async def test_ids_of_qwen3s_own_vocabulary_come_through(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    shutil.copyfile(FULL_TOKENIZER / "tokenizer.json", directory / "tokenizer.json")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "vocab_size": QWEN3_IDS}))
    (directory / "generation_config.json").write_text('{"eos_token_id": [151645, 151643]}')
    make_random_model(directory, directory)
    gguf = engine_file(directory, WeightType.Q8_0, tmp_path / "cache")
    replaced = read_facts(gguf).replaced_token_ids
    async with driving(exact_engine(gguf)) as driver:
        for token in [*replaced[::60], 0, 100_000, 151_645, 151_667, QWEN3_IDS - 1]:
            forced = replace(GREEDY, max_tokens=2, logit_bias={token: 100.0}, ignore_eos=True, top_logprobs=0)
            answer = await driver.ask([1, 2, 3], forced)
            assert answer.token_ids == [token] * 2


async def test_the_small_models_files_convert_and_answer(tmp_path: Path) -> None:
    has_weights = (TINY_MODEL / "model.safetensors").exists()
    directory = TINY_MODEL if has_weights else make_random_model(TINY_MODEL, tmp_path / "tiny")
    gguf = engine_file(directory, WeightType.BF16, tmp_path / "cache")
    config = json.loads((TINY_MODEL / "config.json").read_text(encoding="utf-8"))
    async with driving(exact_engine(gguf, max_running=2, kv_type="f16")) as driver:
        assert driver.info.vocab_size == config["vocab_size"]
        assert config["eos_token_id"] in driver.info.eos_token_ids
        answer = await driver.ask(list(range(40)), replace(GREEDY, ignore_eos=True))
        assert len(answer.token_ids) == GREEDY.max_tokens
