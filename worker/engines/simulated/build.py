"""From configuration to a simulated engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from qwenserve.runtime.config import Config
from qwenserve.runtime.model_fingerprint import fingerprint_of
from qwenserve.worker.engine_choice import BuiltEngine, PreparedModel
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.simulated.engine import SimulatedEngine
from qwenserve.worker.engines.simulated.settings import Settings
from qwenserve.worker.engines.simulated.state import Faults, SimulatedConfig
from qwenserve.worker.guides.matcher import GuideError, GuideVocabulary, vocabulary_of
from qwenserve.worker.model_facts import DirectoryFacts, read_directory
from qwenserve.worker.mpi.link import RankLost
from qwenserve.worker.mpi.ranks import Ranks
from qwenserve.worker.progress import Progress


def prepare(config: Config, model: Path, progress: Progress) -> PreparedModel:
    """Returns the model as it is: of its files only the numbers are read."""
    return PreparedModel(model, "the engine is simulated: answers are made up by a timing model")


def build(config: Config, settings: Settings, progress: Progress) -> BuiltEngine:
    """Returns an engine with the ids of the configured model, or Qwen3's where it is not at hand."""
    return _build(config, settings, None)


def _build(config: Config, settings: Settings, beside: Callable[[], Awaitable[None]] | None) -> BuiltEngine:
    directory = Path(config.model.reference).expanduser()
    facts = read_directory(directory) if (directory / "config.json").exists() else None
    simulated = simulated_config(settings, facts, config.model.max_model_len, config.worker.max_running)
    return BuiltEngine(
        SimulatedEngine(simulated, _vocabulary(directory, simulated) if facts else None, beside),
        str(fingerprint_of(directory)) if facts else "",
    )


def _vocabulary(directory: Path, config: SimulatedConfig) -> GuideVocabulary | None:
    try:
        return vocabulary_of(directory, config.vocab_size, config.eos_token_ids)
    except GuideError as error:
        raise EngineError(str(error)) from error


def build_rank_0(config: Config, settings: Settings, progress: Progress, ranks: Ranks) -> BuiltEngine:
    """Returns an engine whose steps all ranks take: each says that it has, before the next."""
    return _build(config, settings, _StepsOfAll(ranks))


def follow(config: Config, settings: Settings, ranks: Ranks) -> None:
    """Takes every step that rank 0 takes, until that ends. There is nothing to compute."""
    assert ranks.spoke is not None
    time.sleep(settings.load_s)
    while (step := ranks.spoke.listen()) is not None:
        ranks.spoke.answer(step)


class _StepsOfAll:
    def __init__(self, ranks: Ranks) -> None:
        assert ranks.hub is not None
        self._hub = ranks.hub
        self._steps = 0

    async def __call__(self) -> None:
        self._steps += 1
        await asyncio.get_running_loop().run_in_executor(None, self._take)

    def _take(self) -> None:
        step = {"step": self._steps}
        try:
            self._hub.tell(step)
            if any(reply != step for reply in self._hub.replies()):
                raise EngineError("a rank is at another step")
        except RankLost as lost:
            raise EngineError(str(lost)) from None


def simulated_config(
    settings: Settings, facts: DirectoryFacts | None, max_model_len: int, max_running: int
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
