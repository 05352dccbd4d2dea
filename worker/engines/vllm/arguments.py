"""From configuration to the arguments of vLLM's engine. Pure: what vLLM has is given, not imported."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qwenserve.runtime.config import Config
from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.vllm.settings import Settings

# What this deployment's own keys say, and vLLM must not be told otherwise.
_OURS = {
    "model": "model.reference",
    "tokenizer": "model.reference",
    "max_model_len": "model.max_model_len",
    "max_num_seqs": "worker.max_running",
    "skip_tokenizer_init": "worker.vllm.guides",
    "kv_events_config": "worker.vllm.kv_events",
    "disable_log_stats": "nothing: statistics go into the load that routers see",
    "enable_log_requests": "log.level",
    "load_format": "model.weights",
}
_DTYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "random": "auto"}


def engine_arguments(
    config: Config, settings: Settings, model: Path, known: Collection[str], events_address: str
) -> dict[str, Any]:
    """Returns keyword arguments for `AsyncEngineArgs`, whose fields are `known`. An empty `events_address`: no events.

    Raises EngineError for an option that vLLM does not know, or that another key of ours decides.
    """
    for name in settings.options:
        key = f"worker.vllm.options.{name}"
        if name in _OURS and not (name == "load_format" and config.model.weights != "random"):
            raise EngineError(f"{key} is decided by {_OURS[name]}; take it out")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise EngineError(f"{key} is no argument of this vLLM" + (f"; did you mean {close[0]}?" if close else ""))
    arguments: dict[str, Any] = {
        "model": str(model),
        "max_num_seqs": config.worker.max_running,
        "skip_tokenizer_init": not settings.guides,
        "disable_log_stats": True,
        "enable_log_requests": False,
        # Requests that matter more go first; vLLM's own default is first come, first served.
        "scheduling_policy": "priority",
        # vLLM would fill in what it finds beside the model; defaults are the router's.
        "generation_config": "vllm",
        # Lark as routers check it, and JSON without space that a model could fill its answer with.
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
        **_weights(config, settings.options),
        **settings.options,
    }
    if config.model.max_model_len:
        arguments["max_model_len"] = config.model.max_model_len
    if events_address:
        arguments["kv_events_config"] = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": events_address,
        }
    return arguments


def engine_environment(settings: Settings) -> Mapping[str, str]:
    """Returns environment variables that vLLM reads and whoever starts the worker may override."""
    environment = {
        # This process has threads of gRPC, which a fork would not survive.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if settings.moe_kernels:
        environment["VLLM_TUNED_CONFIG_FOLDER"] = settings.moe_kernels
    return environment


def _weights(config: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    weights = config.model.weights
    if weights not in _DTYPES:
        raise EngineError(f"model.weights: vLLM has no {weights}; take one of {', '.join(_DTYPES)}")
    # A quantized checkpoint says itself what it is computed in.
    arguments = {} if "dtype" in options or "quantization" in options else {"dtype": _DTYPES[weights]}
    if weights == "random":
        arguments["load_format"] = "dummy"
    return arguments
