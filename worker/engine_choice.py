"""Builds the configured engine. The one place that knows engines by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from qwenserve.runtime.config import Config, SimulatedSettings
from qwenserve.runtime.logs import EventLog
from qwenserve.worker.engine_interface import Engine, EngineError
from qwenserve.worker.engines.llamacpp import LlamaCppConfig, LlamaCppEngine
from qwenserve.worker.engines.llamacpp.gguf_files import WeightType, engine_file
from qwenserve.worker.engines.llamacpp.gguf_files.checkpoint import weight_files
from qwenserve.worker.engines.llamacpp.random_model import make_random_model
from qwenserve.worker.engines.simulated.engine import SimulatedEngine
from qwenserve.worker.engines.simulated.state import Faults, SimulatedConfig
from qwenserve.worker.model_facts import DirectoryFacts, fingerprint, read_directory
from qwenserve.worker.model_files import resolve_model

_log = EventLog("worker")

# Smaller files are ready before anybody wonders.
_WORTH_REPORTING = 64 << 20


class BuiltEngine(NamedTuple):
    """An engine that has not started, and the fingerprint of what it will serve (empty: unknown)."""

    engine: Engine
    model_fingerprint: str


def build_engine(config: Config) -> BuiltEngine:
    """Returns the engine that `worker.engine` names; may download or convert a model. Raises EngineError."""
    if config.worker.engine == "simulated":
        return _simulated(config)
    return _llamacpp(config)


def _llamacpp(config: Config) -> BuiltEngine:
    progress = _LoggedProgress()
    model = resolve_model(config.model.reference, progress)
    if model.is_dir() and not weight_files(model):
        _log.warning("random_weights", model=str(model), meaning="the directory has no weights: answers are noise")
        model = make_random_model(model, config.cache_path / "random" / model.name)
    gguf = engine_file(model, WeightType(config.model.weights), config.cache_path / "gguf", progress)
    settings = config.worker.llamacpp
    engine = LlamaCppEngine(
        LlamaCppConfig(
            gguf=gguf,
            max_running=config.worker.max_running,
            max_model_len=config.model.max_model_len,
            threads=settings.threads,
            kv_type=settings.kv_type,
            batch_tokens=settings.batch_tokens,
        )
    )
    return BuiltEngine(engine, fingerprint(model))


class _LoggedProgress:
    """Reports downloads and conversions as log events, a tenth at a time."""

    def __init__(self) -> None:
        self._tenths = 0

    def __call__(self, done: int, total: int) -> None:
        tenths = done * 10 // total if total else 10
        if tenths < self._tenths:
            self._tenths = 0
        if tenths > self._tenths and total > _WORTH_REPORTING:
            _log.info("preparing_model", done_mb=done >> 20, total_mb=total >> 20)
        self._tenths = tenths


def _simulated(config: Config) -> BuiltEngine:
    directory = Path(config.model.reference).expanduser()
    facts = read_directory(directory) if (directory / "config.json").exists() else None
    simulated = simulated_config(config.worker.simulated, facts, config.model.max_model_len, config.worker.max_running)
    return BuiltEngine(SimulatedEngine(simulated), fingerprint(directory) if facts else "")


def simulated_config(
    settings: SimulatedSettings, facts: DirectoryFacts | None, max_model_len: int, max_running: int
) -> SimulatedConfig:
    """Returns the timing model for a model's ids, or for Qwen3's where the model is not at hand."""
    qwen3 = SimulatedConfig()
    known = facts or DirectoryFacts(qwen3.vocab_size, qwen3.eos_token_ids, qwen3.max_model_len)
    try:
        return SimulatedConfig(
            vocab_size=known.vocab_size,
            eos_token_ids=known.eos_token_ids,
            max_model_len=max_model_len or known.max_model_len,
            max_running=max_running,
            kv_blocks=settings.kv_blocks,
            kv_block_tokens=settings.kv_block_tokens,
            prefill_tokens_per_s=settings.prefill_tokens_per_s,
            prefill_chunk_tokens=settings.prefill_chunk_tokens,
            step_s=settings.step_ms / 1000,
            step_s_per_request=settings.step_ms_per_request / 1000,
            answer=_answer(settings.answer),
            faults=_faults(settings.fault),
        )
    except ValueError as error:
        raise EngineError(f"worker.simulated: {error}") from None


def _answer(text: str) -> Literal["cycle", "echo"] | tuple[int, ...]:
    if text == "cycle":
        return "cycle"
    if text == "echo":
        return "echo"
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"answer: {text!r} is not cycle, echo, or ids with commas between") from None


def _faults(text: str) -> Faults:
    if text in ("", "none"):
        return Faults()
    kind, _, number = text.partition(":")
    try:
        if kind == "die":
            return Faults(die_after_steps=int(number))
        if kind == "stall":
            return Faults(stall_after_steps=int(number))
        if kind == "refuse":
            return Faults(refuse_after_requests=int(number))
        if kind == "slow":
            return Faults(slow_factor=float(number))
    except ValueError:
        raise ValueError(f"fault: {number!r} in {text!r} is not a number") from None
    raise ValueError(f"fault: {kind!r} is not die, stall, refuse or slow")
