"""Model files shared by the tests of this folder; each is made once per process."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenserve.worker.engines.llamacpp.gguf_files import WeightType, engine_file
from tests.worker.engines.model_directories import write_model


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "dense")


@pytest.fixture(scope="session")
def gguf(directory: Path, cache: Path) -> Path:
    return engine_file(directory, WeightType.F32, cache)
