"""What `engine check` found, kept beside the weights that it was found of, for whoever serves them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenserve.runtime.model_fingerprint import fingerprint_of

FILE = "qwenserve-check.json"


def store(folder: Path, told: Mapping[str, Any]) -> None:
    """Writes the facts of a comparison into the directory of its B, with the fingerprint of the files there."""
    unfinished = folder / f"{FILE}.unfinished"
    unfinished.write_text(json.dumps({"model": str(fingerprint_of(folder)), **told}, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / FILE)


def stored(folder: Path, fingerprint: str) -> Mapping[str, Any] | None:
    """Returns what was found of a directory, None where nothing was or its files have changed since."""
    try:
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) and told.get("model") == fingerprint else None
