"""Gets a model ready before any process starts: found, downloaded, converted, with progress shown.

Every tier then opens local files, so none of them needs the network, and two workers never convert the same model.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from qwenserve.cli.errors import CommandError
from qwenserve.cli.output import Output
from qwenserve.runtime.config import Config
from qwenserve.runtime.process import PACKAGE_ROOT
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp.gguf_files import WeightType, engine_file
from qwenserve.worker.engines.llamacpp.random_model import make_random_model
from qwenserve.worker.model_files import nearest_path, resolve_model


class PreparedModel(NamedTuple):
    """A model on this machine. `note` is what the user must know about it; mostly empty."""

    path: Path
    note: str = ""


def local_path(reference: str) -> Path | None:
    """Returns the directory or file that a reference names on this machine; None for a hub id.

    The model that comes with Qwenserve is found from any working directory.
    """
    for path in (Path(reference).expanduser(), PACKAGE_ROOT / reference):
        if path.exists():
            return path.absolute()
    return None


def prepare_model(config: Config, output: Output) -> PreparedModel:
    """Returns the model's local files, downloading and converting where needed. Blocks. Raises CommandError."""
    reference = config.model.reference
    try:
        prepared = PreparedModel(find_model(reference, output).absolute())
        if config.worker.engine == "simulated":
            return prepared._replace(note="the engine is simulated: answers are made up by a timing model")
        if _has_no_weights(prepared.path):
            prepared = _with_random_weights(prepared.path, config.cache_path)
        with output.progress("preparing the model") as report:
            engine_file(prepared.path, WeightType(config.model.weights), config.cache_path / "gguf", report)
    except EngineError as error:
        raise CommandError(f"model.reference: {error}") from None
    return prepared


def find_model(reference: str, output: Output) -> Path:
    """Returns a model's directory or file on this machine, downloading it where needed. Raises EngineError."""
    local = local_path(reference)
    if local is not None:
        return resolve_model(str(local))
    if near := nearest_path(reference, PACKAGE_ROOT):  # as from here, so from any working directory
        raise EngineError(f"{reference} does not exist; did you mean {near}?")
    with output.progress(f"downloading {reference}") as report:
        return resolve_model(reference, report)


def _has_no_weights(path: Path) -> bool:
    return path.is_dir() and path.is_relative_to(PACKAGE_ROOT) and not any(path.glob("*.safetensors"))


def _with_random_weights(path: Path, cache: Path) -> PreparedModel:
    digest = hashlib.sha256((path / "config.json").read_bytes() + (path / "tokenizer.json").read_bytes())
    target = cache / "random" / digest.hexdigest()[:16] / path.name
    if not (target / "model.safetensors").exists():
        make_random_model(path, target)
    return PreparedModel(target, "this model has random weights: what it says means nothing")
