"""From configuration to the arguments of TensorRT-LLM's LLM, older spellings included. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.runtime.config import Config
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.trtllm.settings import Settings

PENALTY_SAMPLER = "TRTLLMSampler"
# The engine drops the oldest events beyond; smaller numbers were too few in practice.
_EVENT_BUFFER = 8192

_OURS = {
    "model": "model.reference",
    "tokenizer": "worker.trtllm.tokenizer",
    "skip_tokenizer_init": "worker.trtllm.guides",
    "max_batch_size": "worker.max_running",
    "max_seq_len": "model.max_model_len",
    "max_beam_width": "nothing: there is no beam search",
    "backend": "what model.reference is",
}


class Translated(NamedTuple):
    """Options under today's names, and what became of older ones: a line each."""

    options: Mapping[str, Any]
    notes: tuple[str, ...]


# Older names: what they are now, and how their values change. A dot stands for a key inside.
_MOVED: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "use_cuda_graph": ("cuda_graph_config", lambda value: {} if value else None),
    "cuda_graph_batch_sizes": ("cuda_graph_config.batch_sizes", lambda value: value),
    "cuda_graph_max_batch_size": ("cuda_graph_config.max_batch_size", lambda value: value),
    "cuda_graph_padding_enabled": ("cuda_graph_config.enable_padding", lambda value: value),
    "enable_overlap_scheduler": ("disable_overlap_scheduler", lambda value: not value),
    "kv_cache_dtype": ("kv_cache_config.dtype", lambda value: value),
    "moe_backend": ("moe_config.backend", lambda value: value),
    "moe_max_num_tokens": ("moe_config.max_num_tokens", lambda value: value),
    "moe_load_balancer": ("moe_config.load_balancer", lambda value: value),
    "enable_trtllm_sampler": ("sampler_type", lambda value: PENALTY_SAMPLER if value else "TorchSampler"),
    "use_torch_sampler": ("sampler_type", lambda value: "TorchSampler" if value else PENALTY_SAMPLER),
    "autotuner_enabled": ("enable_autotuner", lambda value: value),
    "tp_size": ("tensor_parallel_size", lambda value: value),
    "pp_size": ("pipeline_parallel_size", lambda value: value),
    "ep_size": ("moe_expert_parallel_size", lambda value: value),
}
_GONE = frozenset({"mixed_sampler", "enable_mixed_sampler"})
_NESTED = "pytorch_backend_config"


def translated(options: Mapping[str, Any]) -> Translated:
    """Returns options under their names of today. Raises EngineError where an old and a new name contradict."""
    flat: dict[str, Any] = dict(options)
    notes: list[str] = []
    nested = flat.pop(_NESTED, None)
    if nested is not None:
        if not isinstance(nested, Mapping):
            raise EngineError(f"worker.trtllm.options.{_NESTED}: expected keys below it")
        twice = sorted(nested.keys() & flat.keys())
        if twice:
            raise EngineError(f"worker.trtllm.options: {', '.join(twice)} stands inside and outside {_NESTED}")
        notes.append(f"{_NESTED} is gone: its keys stand beside the others now")
        flat.update(nested)
    result = {key: value for key, value in flat.items() if key not in _MOVED and key not in _GONE}
    notes += [f"{key} is gone; nothing takes its place" for key in sorted(_GONE & flat.keys())]
    switched_off = "use_cuda_graph" in flat and not flat["use_cuda_graph"]
    for key, (name, change) in _MOVED.items():
        if key not in flat:
            continue
        top, _, inner = name.partition(".")
        value = change(flat[key])
        if top == "cuda_graph_config" and switched_off and inner:
            notes.append(f"{key} has no effect: use_cuda_graph is false")
            continue
        if not inner:
            if result.get(top, value) != value and not isinstance(result.get(top), Mapping):
                raise EngineError(f"worker.trtllm.options: {key} and {top} contradict each other; keep {top}")
            result.setdefault(top, value)
        else:
            held = result.get(top)
            below = dict(held) if isinstance(held, Mapping) else {}
            if below.get(inner, value) != value:
                raise EngineError(f"worker.trtllm.options: {key} and {name} contradict each other; keep {name}")
            result[top] = {**below, inner: value}
        notes.append(f"{key} is called {name} now: {result[top] if not inner else value!r}")
    return Translated(result, tuple(notes))


def engine_arguments(
    config: Config, settings: Settings, model: Path, options: Mapping[str, Any], known: Collection[str]
) -> dict[str, Any]:
    """Returns keyword arguments for the LLM, whose argument names are `known`; `options` as `translated` gives them.

    Raises EngineError for an option that this version does not know, or that another key of ours decides.
    """
    for name in options:
        key = f"worker.trtllm.options.{name}"
        if name in _OURS:
            raise EngineError(f"{key} is decided by {_OURS[name]}; take it out")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise EngineError(
                f"{key} is no argument of this version" + (f"; did you mean {close[0]}?" if close else "")
            )
    if "kv_cache_config" in options and not isinstance(options["kv_cache_config"], Mapping):
        raise EngineError("worker.trtllm.options.kv_cache_config: expected keys below it")
    cache = {"event_buffer_max_size": _EVENT_BUFFER, **options.get("kv_cache_config", {})}
    ours: dict[str, Any] = {
        "model": str(model),
        "tokenizer": settings.tokenizer or None,
        "skip_tokenizer_init": not settings.guides,
        "max_batch_size": config.worker.max_running,
        "max_seq_len": config.model.max_model_len or None,
        # Long prompts would be refused without.
        "enable_chunked_prefill": True,
        "enable_iter_perf_stats": True,
        # The default sampler of 1.2 ignores penalties, min_p and seeds, and does not say so.
        "sampler_type": PENALTY_SAMPLER,
        "guided_decoding_backend": "llguidance" if settings.guides else None,
    }
    if config.model.weights == "random":
        ours["load_format"] = "dummy"
    elif config.model.weights in ("q8_0", "f32"):
        raise EngineError(
            f"model.weights: TensorRT-LLM has no {config.model.weights}; take bf16 or f16, or a checkpoint "
            "that is quantized already"
        )
    arguments = {key: value for key, value in ours.items() if key in known and value is not None}
    return {**arguments, **options, "kv_cache_config": cache}
