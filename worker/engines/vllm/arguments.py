"""From configuration to the arguments of vLLM's engine. Pure: what vLLM has is given, not imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qwenserve.runtime.config import Config
from qwenserve.worker.engine_packages import EnginePackage
from qwenserve.worker.engines.vllm.settings import Settings

# What the adapter has been run with; the extra in pyproject.toml says the same.
VLLM = EnginePackage("vllm", "vLLM", (0, 26), (0, 27))

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
    VLLM.check_options(settings.options, _OURS, known, weights=config.model.weights)
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
        **VLLM.weight_arguments(config, settings.options, _DTYPES),
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
