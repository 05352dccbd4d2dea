"""Model files for the embedded engine: anything Qwen3 in, a GGUF file with a safe vocabulary out.

The work is done once per content and cached; see `store`. Nothing here loads a model.
"""

from __future__ import annotations

import os
from pathlib import Path

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp.gguf_files.convert import WeightType, model_name, plan_conversion
from qwenserve.worker.engines.llamacpp.gguf_files.layout import read_header
from qwenserve.worker.engines.llamacpp.gguf_files.marks import FORMAT, ModelFacts, is_prepared, read_facts, tokenizer_of
from qwenserve.worker.engines.llamacpp.gguf_files.rewrite import plan_rewrite
from qwenserve.worker.engines.llamacpp.gguf_files.store import ModelStore
from qwenserve.worker.progress import Progress, no_progress
from qwenserve.worker.weight_files import weight_files

__all__ = [
    "ModelFacts",
    "ModelStore",
    "WeightType",
    "default_cache_directory",
    "engine_file",
    "read_facts",
    "tokenizer_of",
]


def default_cache_directory() -> Path:
    """`$XDG_CACHE_HOME/qwenserve/gguf`, with `~/.cache` where the variable is unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwenserve" / "gguf"


def engine_file(
    model: Path, weights: WeightType, cache_directory: Path | None = None, progress: Progress = no_progress
) -> Path:
    """Returns the GGUF file to load for a model directory or a GGUF file, preparing it where needed.

    `weights` applies to directories; a GGUF file keeps its own types. `progress` runs from 0 to the total
    twice: while the source is read to identify it, and while the new file is written. Blocks; call it in a
    thread. Raises EngineError with the remedy.
    """
    store = ModelStore(cache_directory or default_cache_directory())
    if model.is_file():
        if is_prepared(read_header(model)):
            return model
        digest = store.digest_of([model], f"gguf {FORMAT}", progress=progress)
        return store.obtain(model.stem, digest, lambda: plan_rewrite(model), progress)
    if not (model / "config.json").exists():
        raise EngineError(f"{model} is neither a GGUF file nor a model directory with a config.json")
    small = [model / n for n in ("config.json", "generation_config.json", "tokenizer.json") if (model / n).exists()]
    digest = store.digest_of(small + weight_files(model), f"hf {FORMAT} {weights.value}", progress=progress)
    return store.obtain(
        f"{model_name(model)}-{weights.value}", digest, lambda: plan_conversion(model, weights), progress
    )
