"""What is said about a model before it is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenserve.cli.model import window_note


@pytest.mark.parametrize(
    ("model", "configured", "told"),
    [
        ({"max_position_embeddings": 8192}, 0, "8,192 tokens"),
        ({"max_position_embeddings": 40960}, 4096, "4,096 tokens"),
        ({"max_position_embeddings": 8192}, 65536, "8,192 tokens"),
        ({"max_position_embeddings": 40960}, 0, ""),
        ({}, 0, ""),
        ([], 0, ""),
        ({"max_position_embeddings": None}, 0, ""),
    ],
)
def test_a_short_window_is_said_before_an_agent_meets_it(tmp_path: Path, model: object, configured: int, told: str):
    """The smaller of the model's and the configured one counts; where nothing is known nothing is said."""
    (tmp_path / "config.json").write_text(json.dumps(model))

    note = window_note(tmp_path, configured)

    assert told in note
    assert bool(note) is bool(told)


def test_a_file_has_no_config_to_read(tmp_path: Path):
    """A GGUF file is not a directory."""
    assert window_note(tmp_path / "m.gguf", 0) == ""
