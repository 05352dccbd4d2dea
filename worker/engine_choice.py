"""The table of engines, and what each consists of; its code is imported when it is asked for.

An engine is a package with two modules besides the engine itself:

    settings    `Settings`, the model of what the configuration file has below `worker.NAME`. Imports no engine.
    build       `prepare(config, model, progress) -> PreparedModel`: makes a model on this machine ready, before any
                process starts; and `build(config, settings, progress) -> BuiltEngine`: may download or convert. Both
                block and raise EngineError. An engine whose ranks each run a worker's process (`RANK_STYLES`) has
                `build_rank_0(config, settings, progress, ranks) -> BuiltEngine` besides, and `follow(config, settings,
                ranks)` for the other ranks, which returns when rank 0 ends.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from qwenserve.runtime.config import Config, Section
from qwenserve.runtime.logs import EventLog
from qwenserve.worker.engine_interface import Engine, EngineError
from qwenserve.worker.mpi.command_line import Style
from qwenserve.worker.mpi.ranks import Ranks
from qwenserve.worker.progress import Progress

ENGINES = {
    "llamacpp": "qwenserve.worker.engines.llamacpp",
    "sglang": "qwenserve.worker.engines.sglang",
    "simulated": "qwenserve.worker.engines.simulated",
    "transformers": "qwenserve.worker.engines.transformers",
    "trtllm": "qwenserve.worker.engines.trtllm",
    "vllm": "qwenserve.worker.engines.vllm",
}

# How an engine's ranks run (`worker.mpi.ranks`). Those that are not here compute in one process, or start what they
# need themselves.
RANK_STYLES = {
    "simulated": Style.RANKS,
    "transformers": Style.RANKS,
    "trtllm": Style.TRTLLM,
}

_log = EventLog("worker")

# No progress is shown for smaller files: they are ready within moments.
_WORTH_REPORTING = 64 << 20


class BuiltEngine(NamedTuple):
    """An engine that has not started, and the fingerprint of what it will serve (empty: unknown)."""

    engine: Engine
    model_fingerprint: str


class PreparedModel(NamedTuple):
    """A model on this machine. `note` is what the user must know about it; mostly empty."""

    path: Path
    note: str = ""


class _BuildModule(Protocol):
    def prepare(self, config: Config, model: Path, progress: Progress) -> PreparedModel: ...

    def build(self, config: Config, settings: Any, progress: Progress) -> BuiltEngine: ...

    def build_rank_0(self, config: Config, settings: Any, progress: Progress, ranks: Ranks) -> BuiltEngine: ...

    def follow(self, config: Config, settings: Any, ranks: Ranks) -> None: ...


def engine_settings() -> dict[str, type[Section]]:
    """Returns the models of all engines' settings, for `load_config`."""
    return {name: _settings(package) for name, package in ENGINES.items()}


def prepare_model(config: Config, model: Path, progress: Progress) -> PreparedModel:
    """Makes a model ready for the configured engine. Blocks. Raises EngineError."""
    return _build_module(config).prepare(config, model, progress)


def rank_style(config: Config) -> Style:
    """Returns how the configured engine's ranks run. Raises EngineError for one that has none."""
    engine = config.worker.engine
    if engine not in RANK_STYLES:
        raise EngineError(f"worker.mpi.ranks: the {engine} engine has no MPI ranks; leave it 1")
    return RANK_STYLES[engine]


def build_engine(config: Config, ranks: Ranks | None = None) -> BuiltEngine:
    """Returns the engine that `worker.engine` names; may download or convert a model. Raises EngineError."""
    module = _build_module(config)
    if ranks is not None:
        return module.build_rank_0(config, _checked_settings(config), _LoggedProgress(), ranks)
    return module.build(config, _checked_settings(config), _LoggedProgress())


def follow_engine(config: Config, ranks: Ranks) -> None:
    """Computes with rank 0 until that ends. Blocks. Raises EngineError."""
    _build_module(config).follow(config, _checked_settings(config), ranks)


def _checked_settings(config: Config) -> Section:
    name = config.worker.engine
    try:
        return _settings(ENGINES[name]).model_validate(config.worker.engine_settings.get(name, {}))
    except ValueError as error:
        raise EngineError(f"worker.{name}: {error}") from None


def _settings(package: str) -> type[Section]:
    return cast(type[Section], import_module(f"{package}.settings").Settings)


def _build_module(config: Config) -> _BuildModule:
    package = ENGINES.get(config.worker.engine)
    if package is None:
        raise EngineError(f"worker.engine: {config.worker.engine!r} is not one of {', '.join(ENGINES)}")
    return cast(_BuildModule, import_module(f"{package}.build"))


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
