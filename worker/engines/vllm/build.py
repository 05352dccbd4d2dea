"""From configuration to a vLLM engine."""

from __future__ import annotations

from pathlib import Path

from qwenserve.runtime.config import Config
from qwenserve.runtime.model_fingerprint import fingerprint_of
from qwenserve.worker.engine_choice import BuiltEngine, PreparedModel
from qwenserve.worker.engines.vllm.arguments import VLLM, engine_arguments, engine_environment
from qwenserve.worker.engines.vllm.engine import VllmConfig, VllmEngine
from qwenserve.worker.engines.vllm.native import NativeVllm, argument_names
from qwenserve.worker.engines.vllm.settings import Settings
from qwenserve.worker.guides.regions import special_ids_of
from qwenserve.worker.model_facts import read_directory
from qwenserve.worker.model_files import resolve_model
from qwenserve.worker.prepare.tune_moe import fitting_tables
from qwenserve.worker.progress import Progress


def prepare(config: Config, model: Path, progress: Progress) -> PreparedModel:
    """Checks that vLLM is installed and can take the model. Raises EngineError."""
    VLLM.check_installed()
    VLLM.check_directory(model)
    note = "this model has random weights: what it says means nothing" if config.model.weights == "random" else ""
    return PreparedModel(model, note)


def build(config: Config, settings: Settings, progress: Progress) -> BuiltEngine:
    """Returns an engine for the configured model. Raises EngineError."""
    VLLM.check_installed()
    model = resolve_model(config.model.reference, progress)
    VLLM.check_directory(model)
    facts = read_directory(model)
    # Checked before anything is loaded, with everything but the address that only a start has.
    engine_arguments(config, settings, model, argument_names(), "")

    def load(events_address: str) -> NativeVllm:
        arguments = engine_arguments(config, settings, model, argument_names(), events_address)
        return NativeVllm(arguments, engine_environment(settings))

    engine = VllmEngine(
        VllmConfig(
            load=load,
            eos_token_ids=frozenset(facts.eos_token_ids),
            max_running=config.worker.max_running,
            guides=settings.guides,
            kv_events=settings.kv_events,
            # Only AsyncLLM writes spans.
            read_core=settings.read_core and not settings.options.get("otlp_traces_endpoint"),
            speculative="speculative_config" in settings.options,
            start_timeout_s=settings.start_timeout_s,
            special_ids=special_ids_of(model),
            kernel_tables=fitting_tables(
                settings.moe_kernels, "vllm", model, int(settings.options.get("tensor_parallel_size", 1))
            ),
        )
    )
    return BuiltEngine(engine, str(fingerprint_of(model)))
