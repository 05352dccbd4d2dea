"""What `qwenserve engine check` found, kept beside the weights that it was found of, for whoever serves them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenserve.runtime.model_fingerprint import fingerprint_of
from qwenserve.worker.v1 import worker_pb2

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


def to_wire(told: Mapping[str, Any]) -> worker_pb2.ModelCheck | None:
    """Returns stored facts as `WorkerInfo` has them, None where they are of another form."""
    try:
        return worker_pb2.ModelCheck(
            baseline=told["a"],
            positions=told["positions"],
            top1_agreement=told["top1_agreement"],
            mean_kl=told["mean_kl"],
            baseline_perplexity=told["perplexity_a"],
            perplexity=told["perplexity_b"],
            greedy_agreement=told["greedy_agreement"],
            passed=told["passed"],
        )
    except (KeyError, TypeError, ValueError):
        return None
