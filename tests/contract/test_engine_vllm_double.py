"""The vLLM adapter keeps the engine contract, read both ways, over a stand-in; `tests/gpu` has the real one."""

from __future__ import annotations

from typing import Any

from qwenserve.worker.engine_interface import Engine
from qwenserve.worker.engines.vllm.engine import VllmConfig, VllmEngine
from tests.contract.engine_contract import EngineContract
from tests.worker.engines.vllm.double import VllmDouble


def engine_over(double: VllmDouble, **more: Any) -> VllmEngine:
    """An engine that takes the stand-in for what it loads. It follows no guides, whatever `more` says."""
    config = VllmConfig(
        load=lambda _: double,  # type: ignore[arg-type,return-value]
        eos_token_ids=frozenset(double.config.eos_token_ids),
        max_running=4,
        guides=False,
        kv_events=False,
    )
    return VllmEngine(config._replace(**more))


class TestThroughTheCore(EngineContract):
    prompt = tuple(range(300, 312))

    def make_engine(self) -> Engine:
        return engine_over(VllmDouble())


class TestThroughAsyncLlm(EngineContract):
    prompt = tuple(range(300, 312))

    def make_engine(self) -> Engine:
        return engine_over(VllmDouble(core_is_known=False))
