"""Gets a model ready before any process starts: found, downloaded, converted, with progress shown.

Every tier then opens local files, so none of them needs the network, and two workers never convert the same model.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from qwenserve.cli.errors import CommandError
from qwenserve.cli.output import Output
from qwenserve.runtime.config import Config
from qwenserve.runtime.process import PACKAGE, PACKAGE_ROOT
from qwenserve.worker import engine_choice
from qwenserve.worker.engine_choice import PreparedModel
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.model_files import nearest_path, resolve_model

# What coding agents need for a first prompt and an answer, in tokens.
_AGENTS_WINDOW = 16_384


def local_path(reference: str) -> Path | None:
    """Returns the directory or file that a reference names on this machine; None for a hub id.

    The model that comes with Qwenserve is found from any working directory.
    """
    for path in (Path(reference).expanduser(), PACKAGE_ROOT / reference, PACKAGE / reference):
        if path.exists():
            return Path(os.path.abspath(path))  # `..` out, links left
    return None


def prepare_model(config: Config, output: Output) -> PreparedModel:
    """Returns the model's local files, downloading and converting where needed. Blocks. Raises CommandError."""
    reference = config.model.reference
    try:
        path = find_model(reference, output)
        with output.progress("preparing the model") as report:
            prepared = engine_choice.prepare_model(config, path, report)
    except EngineError as error:
        raise CommandError(f"model.reference: {error}") from None
    notes = [note for note in (prepared.note, window_note(prepared.path, config.model.max_model_len)) if note]
    return prepared._replace(note="; ".join(notes))


def window_note(path: Path, configured: int) -> str:
    """Returns a note where a model's context window is too short for coding agents; empty if not, or not known.

    `configured` is `model.max_model_len`: 0 leaves the model's own.
    """
    try:
        window = int(json.loads((path / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    window = min(window, configured or window)
    if window >= _AGENTS_WINDOW:
        return ""
    return f"the context window has {window:,} tokens, and a coding agent's first prompt some 12,000"


def find_model(reference: str, output: Output) -> Path:
    """Returns a model's directory or file on this machine, downloading it where needed. Raises EngineError."""
    local = local_path(reference)
    if local is not None:
        return resolve_model(str(local))
    if near := nearest_path(reference, PACKAGE):  # our own folder is found from any directory
        raise EngineError(f"{reference} does not exist; did you mean {near}?")
    with output.progress(f"downloading {reference}") as report:
        return resolve_model(reference, report).absolute()
