"""From configuration to a transformers engine, on one process or as rank 0 of several."""

from __future__ import annotations

from pathlib import Path

from qwenserve.runtime.config import Config
from qwenserve.runtime.model_fingerprint import fingerprint_of
from qwenserve.worker.engine_choice import BuiltEngine, PreparedModel
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.transformers.engine import Passes, TransformersConfig, TransformersEngine
from qwenserve.worker.engines.transformers.following import LeadingNetwork, follow_passes
from qwenserve.worker.engines.transformers.network import Network
from qwenserve.worker.engines.transformers.settings import Settings
from qwenserve.worker.guides.matcher import GuideError, vocabulary_of
from qwenserve.worker.model_facts import read_directory
from qwenserve.worker.model_files import resolve_model
from qwenserve.worker.mpi.ranks import Ranks
from qwenserve.worker.progress import Progress
from qwenserve.worker.weight_files import weight_files

# A lost rank may leave a pass waiting for ever.
_STOP_WITH_RANKS_S = 3.0


def prepare(config: Config, model: Path, progress: Progress) -> PreparedModel:
    """Returns the model as it is, once it is one that can be loaded. Raises EngineError."""
    return PreparedModel(_usable(config, model))


def build(config: Config, settings: Settings, progress: Progress) -> BuiltEngine:
    """Returns an engine that computes in this process. Raises EngineError."""
    return _build(config, settings, progress, None)


def build_rank_0(config: Config, settings: Settings, progress: Progress, ranks: Ranks) -> BuiltEngine:
    """Returns an engine that computes on all ranks. Raises EngineError."""
    return _build(config, settings, progress, ranks)


def follow(config: Config, settings: Settings, ranks: Ranks) -> None:
    """Computes this rank's part of every pass. Raises EngineError."""
    assert ranks.spoke is not None
    follow_passes(Network(_found(config), settings, ranks), ranks.spoke)


def _build(config: Config, settings: Settings, progress: Progress, ranks: Ranks | None) -> BuiltEngine:
    directory = _usable(config, resolve_model(config.model.reference, progress))
    facts = read_directory(directory)
    try:
        vocabulary = vocabulary_of(directory, facts.vocab_size, facts.eos_token_ids)
    except GuideError as error:
        raise EngineError(str(error)) from error

    def load() -> Passes:
        network = Network(directory, settings, ranks)
        return network if ranks is None or ranks.hub is None else LeadingNetwork(network, ranks.hub)

    chosen = TransformersConfig(
        facts=facts,
        max_model_len=min(config.model.max_model_len or facts.max_model_len, facts.max_model_len),
        max_running=config.worker.max_running,
        prefill_tokens=settings.prefill_tokens,
        cached_tokens=settings.cached_tokens,
        vocabulary=vocabulary,
        **({} if ranks is None else {"stop_timeout_s": _STOP_WITH_RANKS_S}),
    )
    return BuiltEngine(TransformersEngine(chosen, load), str(fingerprint_of(directory)))


def _found(config: Config) -> Path:
    return _usable(config, resolve_model(config.model.reference, lambda done, total: None))


def _usable(config: Config, model: Path) -> Path:
    if not model.is_dir() or not weight_files(model):
        raise EngineError(f"{model} is no Hugging Face directory with *.safetensors weights, which transformers needs")
    if config.model.weights == "random":
        raise EngineError("model.weights: random is of the embedded engine; transformers loads what the directory has")
    return model
