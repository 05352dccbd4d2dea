"""From configuration to an engine: the model's facts, the timing model's settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenserve.runtime.config import SimulatedSettings
from qwenserve.worker.engine_choice import simulated_config
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.simulated.engine import Faults
from qwenserve.worker.model_facts import DirectoryFacts, fingerprint, read_directory

CONFIG = {"vocab_size": 4096, "eos_token_id": 7, "max_position_embeddings": 512}


def model_directory(path: Path, generation: dict[str, Any] | None = None, **changes: Any) -> Path:
    (path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    return path


def test_facts_come_from_both_files(tmp_path: Path):
    directory = model_directory(tmp_path, {"eos_token_id": [9, 8]})

    assert read_directory(directory) == DirectoryFacts(4096, (9, 8), 512)


def test_a_single_end_token_is_enough(tmp_path: Path):
    assert read_directory(model_directory(tmp_path)).eos_token_ids == (7,)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_broken_directory_is_named(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)

    with pytest.raises(EngineError, match=r"config\.json"):
        read_directory(tmp_path)


def test_fingerprints_tell_models_apart(tmp_path: Path):
    directory = model_directory(tmp_path)
    first = fingerprint(directory)
    assert fingerprint(directory) == first

    (directory / "tokenizer.json").write_text("{}")
    second = fingerprint(directory)
    (directory / "model.safetensors").write_bytes(b"12345678")

    assert len({first, second, fingerprint(directory)}) == 3


def test_settings_become_a_timing_model_of_the_model():
    settings = SimulatedSettings(
        step_ms=2.5, step_ms_per_request=0.5, prefill_chunk_tokens=99, kv_blocks=64, answer="9,10", fault="die:3"
    )
    config = simulated_config(settings, DirectoryFacts(4096, (7,), 512), 0, 12)

    assert (config.vocab_size, config.eos_token_ids, config.max_model_len, config.max_running) == (4096, (7,), 512, 12)
    assert (config.step_s, config.step_s_per_request, config.kv_blocks) == (0.0025, 0.0005, 64)
    assert config.prefill_chunk_tokens == 99
    assert config.answer == (9, 10)
    assert config.faults == Faults(die_after_steps=3)


def test_a_configured_window_wins():
    assert simulated_config(SimulatedSettings(), None, 1000, 8).max_model_len == 1000


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", Faults()),
        ("none", Faults()),
        ("stall:2", Faults(stall_after_steps=2)),
        ("refuse:0", Faults(refuse_after_requests=0)),
        ("slow:1.5", Faults(slow_factor=1.5)),
    ],
)
def test_faults_by_name(fault: str, expected: Faults):
    assert simulated_config(SimulatedSettings(fault=fault), None, 0, 8).faults == expected


@pytest.mark.parametrize("settings", [{"fault": "die:soon"}, {"fault": "rust"}, {"answer": "x"}, {"answer": "999999"}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, str]):
    with pytest.raises(EngineError, match=r"worker\.simulated"):
        simulated_config(SimulatedSettings(**settings), None, 0, 8)
