"""The embedded engine keeps the engine contract; real llama.cpp, a small random model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from qwenserve.worker.engine_interface import Engine
from qwenserve.worker.engines.llamacpp.config import LlamaCppConfig
from qwenserve.worker.engines.llamacpp.engine import LlamaCppEngine
from qwenserve.worker.engines.llamacpp.gguf_files import WeightType, engine_file
from tests.contract.engine_contract import EngineContract
from tests.worker.engines.model_directories import text_of, write_model


class TestLlamaCppEngine(EngineContract):
    prompt = tuple(range(100, 112))

    @pytest.fixture(autouse=True)
    def _model(self, tmp_path: Path) -> None:
        self.use_model_below(tmp_path)

    def use_model_below(self, folder: Path) -> None:
        """Makes the model that the engine runs."""
        self._directory = write_model(folder / "model")
        self._gguf = engine_file(self._directory, WeightType.F32, folder / "cache")

    def make_engine(self) -> Engine:
        return LlamaCppEngine(
            LlamaCppConfig(
                self._gguf,
                self._directory,
                max_running=4,
                max_model_len=512,
                threads=1,
                kv_type="f32",
                batch_tokens=128,
            )
        )

    def text_of(self, token_ids: Sequence[int]) -> str:
        return text_of(token_ids)
