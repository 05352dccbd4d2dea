"""What a worker must know of a Hugging Face directory without opening its weights: ids and window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.worker.engine_interface import EngineError


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
    end: Any = generation.get("eos_token_id", config.get("eos_token_id"))
    try:
        return DirectoryFacts(
            vocab_size=int(config["vocab_size"]),
            eos_token_ids=tuple(end) if isinstance(end, list) else (int(end),),
            max_model_len=int(config["max_position_embeddings"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{directory}/config.json: {error!r} is missing or not a number") from None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise EngineError(f"{file} is not a JSON object")
    return content
