"""A model's fingerprint: each part follows its own files, and unknown parts match everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenserve.runtime.model_fingerprint import ModelFingerprint, fingerprint_of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(100_000))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("tokenizer.json", "tokenizer"),
        ("chat_template.jinja", "template"),
        ("config.json", "weights"),
        ("model.safetensors", "weights"),
    ],
)
def test_each_part_follows_its_file(model: Path, file: str, part: str) -> None:
    before = fingerprint_of(model)
    assert before == fingerprint_of(model)
    content = bytearray((model / file).read_bytes())
    content[-1] += 1
    (model / file).write_bytes(content)

    assert before.differences(fingerprint_of(model)) == [part]


def test_other_files_change_nothing(model: Path) -> None:
    before = fingerprint_of(model)
    (model / "generation_config.json").write_text("{}")

    assert fingerprint_of(model) == before


def test_weights_of_one_size_are_told_apart(model: Path) -> None:
    before = fingerprint_of(model)
    (model / "model.safetensors").write_bytes(b"1" * 100_000)

    assert before.differences(fingerprint_of(model)) == ["weights"]


def test_a_template_may_be_in_the_tokenizers_settings(model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    assert fingerprint_of(model).template == ""
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    first = fingerprint_of(model)
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": [{"name": "default", "template": "x"}]}))

    assert first.differences(fingerprint_of(model)) == ["template"]


def test_what_one_side_does_not_have_is_not_compared(model: Path) -> None:
    whole = fingerprint_of(model)
    (model / "model.safetensors").unlink()
    without_weights = fingerprint_of(model)

    assert without_weights.weights == ""
    assert not without_weights.differences(whole)
    assert not ModelFingerprint().differences(whole)


def test_a_gguf_file_is_one_whole(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" * 10)

    assert fingerprint_of(file)[:2] == ("", "")
    assert fingerprint_of(file).weights


def test_what_is_written_is_read_again(model: Path) -> None:
    fingerprint = fingerprint_of(model)

    assert ModelFingerprint.parse(str(fingerprint)) == fingerprint
    assert ModelFingerprint.parse("") == ModelFingerprint()
    assert ModelFingerprint.parse("f weights=1 later=2") == ModelFingerprint(weights="1")
