"""The SGLang adapter keeps the engine contract over a stand-in; `tests/gpu` has the real one."""

from __future__ import annotations

from collections.abc import Sequence

from qwenserve.worker.engine_interface import Engine
from qwenserve.worker.engines.sglang.engine import SglangConfig, SglangEngine
from tests.contract.engine_contract import EngineContract
from tests.contract.test_engine_simulated import VOCABULARY
from tests.worker.engines.model_directories import THINK, text_of
from tests.worker.engines.sglang.double import SglangDouble


def engine_over(double: SglangDouble) -> SglangEngine:
    """An engine that takes the stand-in for what it loads."""
    return SglangEngine(
        SglangConfig(
            load=lambda: double,  # type: ignore[arg-type,return-value]
            eos_token_ids=frozenset(double.config.eos_token_ids),
            max_running=4,
            max_model_len=0,
            guides=double.tokenizer,
            seeds=double.deterministic,
            special_ids={"<think>": THINK},
        )
    )


class TestSglangEngine(EngineContract):
    prompt = tuple(range(300, 312))

    def make_engine(self) -> Engine:
        return engine_over(SglangDouble(vocabulary=VOCABULARY))

    def text_of(self, token_ids: Sequence[int]) -> str:
        return text_of(token_ids)
