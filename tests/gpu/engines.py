"""The engines that a GPU machine runs, configured for `models/qwen3-tiny` and exact answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.runtime.config import Config
from qwenserve.worker.engine_choice import build_engine
from qwenserve.worker.engine_interface import Engine

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "qwen3-tiny"
CASES: Sequence[dict[str, Any]] = json.loads((ROOT / "tests" / "fixtures" / "greedy_reference.json").read_text())[
    "cases"
]
MAX_MODEL_LEN = 2048
MAX_RUNNING = 16


class Setup(NamedTuple):
    """An engine's settings; `weights` is the number format in which it runs, the most exact one that it has."""

    weights: str
    settings: dict[str, Any]


SETUPS = {
    "vllm": Setup("f32", {"options": {"enforce_eager": True, "kv_cache_memory_bytes": 4 << 30}}),
    # On a CPU too: scripts are tried out with it.
    "transformers": Setup("f32", {"dtype": "float32"}),
    # Its norms have no float32.
    "sglang": Setup(
        "f16",
        {
            "options": {
                "attention_backend": "triton",
                "sampling_backend": "pytorch",
                "disable_cuda_graph": True,
                "mem_fraction_static": 0.3,
                # Several share a card.
                "max_total_tokens": 40_000,
            }
        },
    ),
}


def configuration(engine: str, model: Path = MODEL, weights: str = "", **more: Any) -> Config:
    """Returns the configuration of a worker, with `more` of the engine's settings."""
    setup = SETUPS[engine]
    return Config.model_validate(
        {
            "model": {"reference": str(model), "weights": weights or setup.weights, "max_model_len": MAX_MODEL_LEN},
            "worker": {
                "engine": engine,
                "max_running": MAX_RUNNING,
                "engine_settings": {engine: {**setup.settings, **more}},
            },
        }
    )


def make(engine: str, model: Path = MODEL, weights: str = "", **more: Any) -> Engine:
    """Returns an engine that has not started."""
    return build_engine(configuration(engine, model, weights, **more)).engine


def forget_prefixes(engine: Any) -> Callable[[], Awaitable[None]]:
    """Returns what empties an engine's prefix cache; how, is no part of the interface."""

    async def forget() -> None:
        native = engine._native
        reset = native.core.reset_prefix_cache_async if hasattr(native, "core") else native.flush_cache
        # What was aborted a moment ago may still hold blocks.
        for _ in range(400):
            if await reset():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the prefix cache could not be emptied")

    return forget
