"""What a worker must know of a Hugging Face directory without opening its weights: ids and window."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.worker.engine_interface import EngineError

# No vocabulary and no window is larger; the messages between the tiers have 32 bits for an id.
_MOST = 2**31 - 1


class DirectoryFacts(NamedTuple):
    """Facts from config.json and generation_config.json."""

    vocab_size: int
    eos_token_ids: tuple[int, ...]
    max_model_len: int


def read_directory(directory: Path) -> DirectoryFacts:
    """Returns the facts of a model directory. Raises EngineError for one that is not usable."""
    config = _read_json(directory / "config.json")
    generation_file = directory / "generation_config.json"
    generation = _read_json(generation_file) if generation_file.exists() else {}
    vocab_size = _size(directory, config, "vocab_size")
    return DirectoryFacts(
        vocab_size=vocab_size,
        eos_token_ids=_end_ids(directory, {**config, **generation}.get("eos_token_id"), vocab_size),
        max_model_len=_size(directory, config, "max_position_embeddings"),
    )


# What else shapes a network, by the names of config.json, and the most that any of it is.
_SHAPES = {
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "vocab_size": 10_000_000,
    "max_position_embeddings": _MOST,
}
_OPTIONAL_SHAPES = {
    "head_dim": 100_000,
    "num_experts": 100_000,
    "num_local_experts": 100_000,
    "num_experts_per_tok": 100_000,
    "moe_intermediate_size": 10_000_000,
}


def check_shapes(directory: Path, config: Mapping[str, Any]) -> None:
    """Looks at all sizes in a model's config.json before anything is made of them. Raises EngineError for the first
    that is none.
    """
    for name, most in _SHAPES.items():
        _size(directory, config, name, most)
    for name, most in _OPTIONAL_SHAPES.items():
        if config.get(name) is not None:
            _size(directory, config, name, most)


def _size(directory: Path, config: Mapping[str, Any], name: str, most: int = _MOST) -> int:
    value = config.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 1 <= value <= most:
        raise EngineError(
            f"{directory}/config.json: {name} must be a whole number from 1 to {most}, {_shown(value)}; "
            "download it again"
        )
    return value


def _end_ids(directory: Path, value: Any, vocab_size: int) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [value]
    if not ids or not all(type(each) is int and 0 <= each < vocab_size for each in ids):
        raise EngineError(
            f"{directory}: eos_token_id in generation_config.json or config.json must be token ids from 0 to "
            f"{vocab_size - 1}, {_shown(value)}"
        )
    return tuple(ids)


def _shown(value: Any) -> str:
    return "and is missing" if value is None else f"got {str(value)[:60]}"


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise EngineError(f"{file} is not a JSON object")
    return content
