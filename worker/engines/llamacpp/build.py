"""From configuration to an embedded engine: the model found, downloaded, converted."""

from __future__ import annotations

from pathlib import Path

from qwenserve.runtime.config import Config
from qwenserve.runtime.model_fingerprint import fingerprint_of
from qwenserve.worker.engine_choice import BuiltEngine, PreparedModel
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp.config import LlamaCppConfig
from qwenserve.worker.engines.llamacpp.engine import LlamaCppEngine
from qwenserve.worker.engines.llamacpp.gguf_files import WeightType, engine_file
from qwenserve.worker.engines.llamacpp.random_model import random_copy
from qwenserve.worker.engines.llamacpp.settings import Settings
from qwenserve.worker.model_files import resolve_model
from qwenserve.worker.progress import Progress
from qwenserve.worker.weight_files import weight_files

_RANDOM = "random"


def prepare(config: Config, model: Path, progress: Progress) -> PreparedModel:
    """Makes the model's GGUF file where there is none yet. Raises EngineError."""
    prepared = _with_weights(config, model)
    _engine_file(config, prepared.path, progress)
    return prepared


def build(config: Config, settings: Settings, progress: Progress) -> BuiltEngine:
    """Returns an engine for the configured model. Raises EngineError."""
    model = _with_weights(config, resolve_model(config.model.reference, progress)).path
    engine = LlamaCppEngine(
        LlamaCppConfig(
            gguf=_engine_file(config, model, progress),
            model=model,
            max_running=config.worker.max_running,
            max_model_len=config.model.max_model_len,
            threads=settings.threads,
            kv_type=settings.kv_type,
            batch_tokens=settings.batch_tokens,
            prefix_memory_mib=settings.prefix_memory_mib,
        )
    )
    return BuiltEngine(engine, str(fingerprint_of(model)))


def _with_weights(config: Config, model: Path) -> PreparedModel:
    """Returns the model, with random weights where those are asked for by name and only there."""
    if config.model.weights == _RANDOM:
        if model.is_file():
            raise EngineError(f"{model} is a GGUF file, which has weights; take model.weights: random back")
        note = "this model has random weights: what it says means nothing"
        return PreparedModel(random_copy(model, config.cache_path / "random"), note)
    if model.is_dir() and not weight_files(model):
        raise EngineError(
            f"{model} has no *.safetensors weights; download the whole model directory, or set model.weights: random "
            "for answers that mean nothing"
        )
    return PreparedModel(model)


def _engine_file(config: Config, model: Path, progress: Progress) -> Path:
    weights = WeightType.BF16 if config.model.weights == _RANDOM else WeightType(config.model.weights)
    return engine_file(model, weights, config.cache_path / "gguf", progress)
