"""The model that a router serves: its names, and the sampling settings that come with its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qwenserve.router.chat.model import ServedModel
from qwenserve.runtime.config import load_config
from qwenserve.runtime.errors import ModelNotFound
from qwenserve.text.assets import AssetError
from tests.system.stack import TINY

CONFIG = load_config(environment={}, overrides={"model.name": "Qwen/Some", "model.aliases": "[some, Other]"}).config
FILES = ("chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def published(directory: Path, **settings: Any) -> Path:
    """A copy of the small model whose authors recommend these settings as well."""
    for name in FILES:
        shutil.copy(TINY / name, directory / name)
    file = directory / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return directory


def test_every_name_is_known_in_any_case() -> None:
    model = ServedModel.load(TINY, CONFIG)

    assert model.names == ("Qwen/Some", "some", "Other")
    assert [model.check_name(name) for name in ("", "qwen/some", "SOME", "other")] == [
        "Qwen/Some",
        "Qwen/Some",
        "some",
        "Other",
    ]
    with pytest.raises(ModelNotFound):
        model.check_name("another")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.5),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_k", 2**31),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
    ],
)
def test_recommended_sampling_out_of_range_is_named_at_start(tmp_path: Path, name: str, value: float) -> None:
    """Otherwise every request that leaves the field alone would fail, for no fault of its own."""
    with pytest.raises(AssetError, match=rf"generation_config\.json: {name}: must be .*, got {value}"):
        ServedModel.load(published(tmp_path, **{name: value}), CONFIG)


def test_recommended_sampling_in_range_is_the_default(tmp_path: Path) -> None:
    model = ServedModel.load(published(tmp_path, temperature=0, top_k=7.0, min_p=None), CONFIG)

    assert (model.defaults(True).temperature, model.defaults(True).top_k, model.defaults(True).min_p) == (0, 7, 0)
