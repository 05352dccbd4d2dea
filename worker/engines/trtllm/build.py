"""From configuration to a TensorRT-LLM engine."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.runtime.config import Config
from qwenserve.runtime.model_fingerprint import fingerprint_of
from qwenserve.worker.engine_choice import BuiltEngine, PreparedModel
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.trtllm.engine import TrtllmConfig, TrtllmEngine
from qwenserve.worker.engines.trtllm.native import Package, is_built_engine
from qwenserve.worker.engines.trtllm.options import PENALTY_SAMPLER, engine_arguments, translated
from qwenserve.worker.engines.trtllm.preflight import demand_of, look, problems
from qwenserve.worker.engines.trtllm.settings import Settings
from qwenserve.worker.engines.trtllm.versions import check_version
from qwenserve.worker.guides.regions import special_ids_of
from qwenserve.worker.model_facts import read_directory
from qwenserve.worker.model_files import resolve_model
from qwenserve.worker.progress import Progress

_DEFAULT_BLOCK_TOKENS = 32

_log = logging.getLogger(__name__)


class _Facts(NamedTuple):
    vocab_size: int
    eos_token_ids: frozenset[int]
    max_model_len: int


def prepare(config: Config, model: Path, progress: Progress) -> PreparedModel:
    """Checks that the package is installed and this version is taken. Raises EngineError."""
    package = Package(built_engine=is_built_engine(model))
    check_version(package.version, package.has)
    note = "this model has random weights: what it says means nothing" if config.model.weights == "random" else ""
    return PreparedModel(model, note)


def build(config: Config, settings: Settings, progress: Progress) -> BuiltEngine:
    """Returns an engine for the configured model. Raises EngineError."""
    model = resolve_model(config.model.reference, progress)
    if not model.is_dir():
        raise EngineError(f"{model}: TensorRT-LLM wants a Hugging Face directory or a built engine's")
    built = is_built_engine(model)
    package = Package(built_engine=built)
    check_version(package.version, package.has)
    options, notes = translated(settings.options)
    for note in notes:
        _log.warning("worker.trtllm.options: %s", note)
    arguments = engine_arguments(config, settings, model, options, package.has.arguments)
    facts = _engine_facts(model, settings) if built else _directory_facts(config, model)
    if not built:
        found = problems(look(), demand_of(model, arguments))
        if found:
            raise EngineError("; ".join(found))
    engine = TrtllmEngine(
        TrtllmConfig(
            load=lambda: package.load(arguments),
            version=package.version,
            has=package.has,
            max_model_len=facts.max_model_len,
            vocab_size=facts.vocab_size,
            eos_token_ids=facts.eos_token_ids,
            max_running=config.worker.max_running,
            block_tokens=int(arguments["kv_cache_config"].get("tokens_per_block", _DEFAULT_BLOCK_TOKENS)),
            tells_kv_events=_tells_kv_events(arguments["kv_cache_config"]),
            penalty_sampler=built or arguments.get("sampler_type") == PENALTY_SAMPLER,
            guides=arguments.get("guided_decoding_backend") is not None,
            start_timeout_s=settings.start_timeout_s,
            stop_timeout_s=settings.stop_timeout_s,
            special_ids=special_ids_of(Path(settings.tokenizer).expanduser() if settings.tokenizer else model),
            options=arguments,
        )
    )
    return BuiltEngine(engine, str(fingerprint_of(model)))


def _tells_kv_events(cache: Mapping[str, Any]) -> bool:
    """Whether there is a prefix cache, and room for its events."""
    return bool(cache.get("event_buffer_max_size")) and cache.get("enable_block_reuse") is not False


def _directory_facts(config: Config, model: Path) -> _Facts:
    facts = read_directory(model)
    window = config.model.max_model_len or facts.max_model_len
    return _Facts(facts.vocab_size, frozenset(facts.eos_token_ids), window)


def _engine_facts(model: Path, settings: Settings) -> _Facts:
    """The sizes that an engine was built with, and the end tokens of the model that it was built from."""
    if not settings.tokenizer:
        raise EngineError(
            "worker.trtllm.tokenizer: a built engine does not say which ids end an answer; name the Hugging Face "
            "directory that it was built from"
        )
    content = json.loads((model / "config.json").read_text(encoding="utf-8"))
    try:
        vocab_size = int(content["pretrained_config"]["vocab_size"])
        window = int(content["build_config"]["max_seq_len"])
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{model}/config.json: {error!r} is missing or not a number") from None
    return _Facts(vocab_size, frozenset(read_directory(Path(settings.tokenizer)).eos_token_ids), window)
