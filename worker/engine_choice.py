"""The table of engines, and what each consists of; its code is imported when it is asked for.

An engine is a package with two modules besides the engine itself:

    settings    `Settings`, the model of what the configuration file has below `worker.NAME`. Imports no engine.
    build       `prepare(config, model, progress) -> PreparedModel`: makes a model on this machine ready, before any
                process starts; and `build(config, settings, progress) -> BuiltEngine`: may download or convert. Both
                block and raise EngineError.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from qwenserve.runtime.config import Config, Section
from qwenserve.runtime.logs import EventLog
from qwenserve.worker.engine_interface import Engine, EngineError
from qwenserve.worker.progress import Progress

ENGINES = {
    "llamacpp": "qwenserve.worker.engines.llamacpp",
    "simulated": "qwenserve.worker.engines.simulated",
    "vllm": "qwenserve.worker.engines.vllm",
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


def engine_settings() -> dict[str, type[Section]]:
    """Returns the models of all engines' settings, for `load_config`."""
    return {name: _settings(package) for name, package in ENGINES.items()}


def prepare_model(config: Config, model: Path, progress: Progress) -> PreparedModel:
    """Makes a model ready for the configured engine. Blocks. Raises EngineError."""
    return _build_module(config).prepare(config, model, progress)


def build_engine(config: Config) -> BuiltEngine:
    """Returns the engine that `worker.engine` names; may download or convert a model. Raises EngineError."""
    module = _build_module(config)
    name = config.worker.engine
    try:
        settings = _settings(ENGINES[name]).model_validate(config.worker.engine_settings.get(name, {}))
    except ValueError as error:
        raise EngineError(f"worker.{name}: {error}") from None
    return module.build(config, settings, _LoggedProgress())


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
