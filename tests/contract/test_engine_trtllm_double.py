"""The TensorRT-LLM adapter keeps the engine contract over a stand-in that is built from a table of its names."""

from __future__ import annotations

import pytest

from qwenserve.worker.engine_interface import Engine
from qwenserve.worker.engines.trtllm.engine import TrtllmConfig, TrtllmEngine
from qwenserve.worker.engines.trtllm.native import Package
from tests.contract.engine_contract import EngineContract
from tests.worker.engines.trtllm.double import CONFIG, install


def engine_over_double(**more: object) -> TrtllmEngine:
    """An engine over the stand-in that is installed."""
    package = Package(built_engine=False)

    def leave(code: int) -> None:
        raise AssertionError("the process would have ended")

    config = TrtllmConfig(
        load=lambda: package.load({"model": "m", "kv_cache_config": {"event_buffer_max_size": 10}}),
        version=package.version,
        has=package.has,
        max_model_len=CONFIG.window,
        vocab_size=CONFIG.vocab_size,
        eos_token_ids=frozenset(CONFIG.eos_token_ids),
        max_running=4,
        guides=False,
        leave=leave,
    )
    return TrtllmEngine(config._replace(**more))  # type: ignore[arg-type]


class TestTrtllmEngine(EngineContract):
    prompt = tuple(range(300, 312))
    caches = False

    @pytest.fixture(autouse=True)
    def _package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch)

    def make_engine(self) -> Engine:
        return engine_over_double()
