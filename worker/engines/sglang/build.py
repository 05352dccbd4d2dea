"""From configuration to an SGLang engine."""

from __future__ import annotations

from pathlib import Path

from qwenserve.runtime.config import Config
from qwenserve.runtime.model_fingerprint import fingerprint_of
from qwenserve.worker.engine_choice import BuiltEngine, PreparedModel
from qwenserve.worker.engines.sglang.arguments import SGLANG, engine_arguments, engine_environment
from qwenserve.worker.engines.sglang.engine import SglangConfig, SglangEngine
from qwenserve.worker.engines.sglang.native import NativeSglang, argument_names
from qwenserve.worker.engines.sglang.settings import Settings
from qwenserve.worker.guides.regions import special_ids_of
from qwenserve.worker.model_facts import read_directory
from qwenserve.worker.model_files import resolve_model
from qwenserve.worker.prepare.tune_moe import fitting_tables
from qwenserve.worker.progress import Progress


def prepare(config: Config, model: Path, progress: Progress) -> PreparedModel:
    """Checks that SGLang is installed and can take the model. Raises EngineError."""
    SGLANG.check_installed()
    SGLANG.check_directory(model)
    note = "this model has random weights: what it says means nothing" if config.model.weights == "random" else ""
    return PreparedModel(model, note)


def build(config: Config, settings: Settings, progress: Progress) -> BuiltEngine:
    """Returns an engine for the configured model. Raises EngineError."""
    SGLANG.check_installed()
    model = resolve_model(config.model.reference, progress)
    SGLANG.check_directory(model)
    facts = read_directory(model)
    arguments = engine_arguments(config, settings, model, facts.max_model_len, argument_names())
    engine = SglangEngine(
        SglangConfig(
            load=lambda: NativeSglang(arguments, engine_environment(settings)),
            eos_token_ids=frozenset(facts.eos_token_ids),
            max_running=config.worker.max_running,
            max_model_len=config.model.max_model_len,
            guides=settings.guides,
            seeds=bool(arguments.get("enable_deterministic_inference")),
            start_timeout_s=settings.start_timeout_s,
            special_ids=special_ids_of(model),
            kernel_tables=fitting_tables(
                settings.moe_kernels, "sglang", model, int(settings.options.get("tp_size", 1))
            ),
        )
    )
    return BuiltEngine(engine, str(fingerprint_of(model)))
