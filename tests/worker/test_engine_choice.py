"""From configuration to an engine: the model's facts, the timing model's settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwenserve.runtime.config import Config, load_config
from qwenserve.worker.engine_choice import ENGINES, build_engine, engine_settings, prepare_model
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp.gguf_files.convert import WeightType, plan_conversion
from qwenserve.worker.engines.llamacpp.random_model import make_random_model
from qwenserve.worker.engines.simulated.build import simulated_config
from qwenserve.worker.engines.simulated.engine import Faults
from qwenserve.worker.engines.simulated.settings import Settings
from qwenserve.worker.model_facts import DirectoryFacts, read_directory
from qwenserve.worker.progress import no_progress
from tests.worker.engines.model_directories import write_model

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


ODD: tuple[Any, ...] = (True, "8", [], float("inf"))
NO_IDS: tuple[Any, ...] = (-1, 4096, [], [-1], ["x"], {}, True, None, 2**80)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name in ("vocab_size", "max_position_embeddings") for value in (-1, 0, 1.5, 2**31, 10**30)),
        *((name, value) for name in ("vocab_size", "max_position_embeddings") for value in ODD),
        *(("eos_token_id", value) for value in NO_IDS),
    ],
)
def test_absurd_sizes_are_named(tmp_path: Path, field: str, value: Any):
    with pytest.raises(EngineError, match=field):
        read_directory(model_directory(tmp_path, **{field: value}))


@pytest.mark.parametrize("field", ["hidden_size", "num_attention_heads", "num_hidden_layers", "head_dim", "vocab_size"])
@pytest.mark.parametrize("value", [-64, 0, 10**12, "64", []])
def test_absurd_sizes_are_named_before_weights_are_converted_or_made(tmp_path: Path, field: str, value: Any):
    directory = write_model(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text()) | {field: value}
    (directory / "config.json").write_text(json.dumps(config))

    with pytest.raises(EngineError, match=rf"config\.json: {field}"):
        plan_conversion(directory, WeightType.F32)
    with pytest.raises(EngineError, match=rf"config\.json: {field}"):
        make_random_model(directory, tmp_path / "copy")


def test_settings_become_a_timing_model_of_the_model():
    settings = Settings(
        step_ms=2.5, step_ms_per_request=0.5, prefill_chunk_tokens=99, kv_blocks=64, answer="9,10", fault="die:3"
    )
    config = simulated_config(settings, DirectoryFacts(4096, (7,), 512), 0, 12)

    assert (config.vocab_size, config.eos_token_ids, config.max_model_len, config.max_running) == (4096, (7,), 512, 12)
    assert (config.step_s, config.step_s_per_request, config.kv_blocks) == (0.0025, 0.0005, 64)
    assert config.prefill_chunk_tokens == 99
    assert config.answer == (9, 10)
    assert config.faults == Faults(die_after_steps=3)


def test_a_configured_window_wins():
    assert simulated_config(Settings(), None, 1000, 8).max_model_len == 1000


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
    assert simulated_config(Settings(fault=fault), None, 0, 8).faults == expected


@pytest.mark.parametrize("settings", [{"fault": "die:soon"}, {"fault": "rust"}, {"answer": "x"}, {"answer": "999999"}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, str]):
    with pytest.raises(EngineError, match=r"worker\.simulated"):
        simulated_config(Settings(**settings), None, 0, 8)


@pytest.mark.parametrize("name", ENGINES)
def test_settings_are_had_without_the_engine(name: str):
    """They are read by every command, some of which must answer at once."""
    code = (
        "import sys; from qwenserve.worker.engine_choice import engine_settings; engine_settings();"
        f"sys.exit(any(m.startswith('{ENGINES[name]}.engine') or m in ('numpy', 'gguf') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def configured(**overrides: Any) -> Config:
    return load_config(environment={}, overrides=overrides).config


def test_an_engine_that_is_not_in_the_table_is_named():
    with pytest.raises(EngineError, match=r"worker\.engine: 'magic' is not one of llamacpp, sglang, simulated"):
        build_engine(configured(**{"worker.engine": "magic"}))


def test_settings_that_nobody_checked_before_are_checked_by_the_engine():
    with pytest.raises(EngineError, match=r"worker\.simulated.*\n*.*steps_ms"):
        build_engine(configured(**{"worker.engine": "simulated", "worker.simulated.steps_ms": 3}))


def test_a_settings_model_of_each_engine_names_its_section():
    loaded = load_config(environment={}, engines=engine_settings())

    assert {setting.key.split(".")[1] for setting in loaded.settings() if setting.key.count(".") == 2} >= set(ENGINES)


@pytest.fixture
def bare_directory(tmp_path: Path) -> Path:
    directory = write_model(tmp_path / "bare")
    (directory / "model.safetensors").unlink()
    return directory


@pytest.mark.parametrize("spelled", ["absolute", "relative"])
def test_a_directory_without_weights_is_refused_however_it_is_named(
    bare_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    reference = str(bare_directory) if spelled == "absolute" else "../bare"
    config = configured(**{"model.reference": reference, "cache_dir": str(tmp_path / "cache")})

    with pytest.raises(EngineError, match=r"no \*\.safetensors weights.*model\.weights: random"):
        build_engine(config)
    with pytest.raises(EngineError, match=r"no \*\.safetensors weights"):
        prepare_model(config, Path(reference), no_progress)


def test_random_weights_are_made_where_they_are_asked_for_by_name(bare_directory: Path, tmp_path: Path):
    config = configured(
        **{
            "model.reference": str(bare_directory),
            "model.weights": "random",
            "model.max_model_len": 256,
            "worker.max_running": 1,
            "cache_dir": str(tmp_path / "cache"),
        }
    )
    prepared = prepare_model(config, bare_directory, no_progress)
    again = prepare_model(config, prepared.path, no_progress)
    (bare_directory / "chat_template.jinja").write_text("{{ messages }}")
    changed = prepare_model(config, bare_directory, no_progress)

    assert "random weights" in prepared.note
    assert (prepared.path / "model.safetensors").exists()
    assert again.path == prepared.path
    assert (changed.path / "chat_template.jinja").exists()
    assert build_engine(config).engine is not None


def test_a_file_has_weights_and_gets_no_random_ones(tmp_path: Path):
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")

    with pytest.raises(EngineError, match="GGUF file"):
        prepare_model(configured(**{"model.weights": "random"}), file, no_progress)
