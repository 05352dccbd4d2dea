"""Which files of a Hugging Face directory hold its weights."""

from __future__ import annotations

import json
from pathlib import Path

from qwenserve.worker.engine_interface import EngineError


def weight_files(directory: Path) -> list[Path]:
    """Returns the safetensors files of a checkpoint, by its index where there is one. May be empty."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [directory / name for name in names]
        missing = [f.name for f in files if not f.exists()]
        if missing:
            raise EngineError(f"{directory} lacks {', '.join(missing)}, named in its index; download it again")
        return files
    single = directory / "model.safetensors"
    return [single] if single.exists() else sorted(directory.glob("*.safetensors"))
