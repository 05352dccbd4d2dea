"""The simulated engine keeps the engine contract."""

from __future__ import annotations

from collections.abc import Sequence

from qwenserve.worker.engine_interface import Engine
from qwenserve.worker.engines.simulated.engine import SimulatedConfig, SimulatedEngine
from qwenserve.worker.guides.matcher import GuideVocabulary
from tests.contract.engine_contract import EngineContract
from tests.worker.engines.model_directories import END, OTHER_END, VOCAB, text_of, tokenizer

# Texts for the first ids only: that is enough for guides to be followed.
VOCABULARY = GuideVocabulary(tokenizer(), VOCAB, (END, OTHER_END))


class TestSimulatedEngine(EngineContract):
    prompt = tuple(range(300, 312))

    def make_engine(self) -> Engine:
        return SimulatedEngine(
            SimulatedConfig(
                vocab_size=VOCAB,
                eos_token_ids=(END, OTHER_END),
                max_model_len=512,
                max_running=4,
                step_s=0.0005,
                prefill_tokens_per_s=1e6,
            ),
            VOCABULARY,
        )

    def text_of(self, token_ids: Sequence[int]) -> str:
        return text_of(token_ids)
