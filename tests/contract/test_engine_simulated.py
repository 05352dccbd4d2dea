"""The simulated engine keeps the engine contract."""

from __future__ import annotations

from qwenserve.worker.engine_interface import Engine
from qwenserve.worker.engines.simulated.engine import SimulatedConfig, SimulatedEngine
from tests.contract.engine_contract import EngineContract


class TestSimulatedEngine(EngineContract):
    prompt = tuple(range(300, 312))

    def make_engine(self) -> Engine:
        return SimulatedEngine(
            SimulatedConfig(max_model_len=512, max_running=4, step_s=0.0005, prefill_tokens_per_s=1e6)
        )
