"""From configuration to the arguments of SGLang's engine. Pure: what SGLang has is given, not imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qwenserve.runtime.config import Config
from qwenserve.worker.engine_packages import EnginePackage
from qwenserve.worker.engines.sglang.settings import Settings

# What the adapter has been written for; the extra in pyproject.toml says the same.
SGLANG = EnginePackage("sglang", "SGLang", (0, 5, 17), (0, 5, 18), tried="is for")

# What this deployment's own keys say, and SGLang must not be told otherwise.
_OURS = {
    "model_path": "model.reference",
    "tokenizer_path": "model.reference",
    "context_length": "model.max_model_len",
    "max_running_requests": "worker.max_running",
    "skip_tokenizer_init": "worker.sglang.guides",
    "load_format": "model.weights",
    "incremental_streaming_output": "nothing: the worker reads what is new in each step",
    "tokenizer_worker_num": "nothing: the worker is SGLang's only client",
    "enable_priority_scheduling": "nothing: requests that matter more go first",
    "custom_sigquit_handler": "nothing: the worker handles the end of SGLang's processes",
}
_DTYPES = {"bf16": "bfloat16", "f16": "float16", "random": "auto"}
# A prompt has to be this much shorter than `context_length`: one for an id to come, five that SGLang keeps free.
SPARE = 6


def engine_arguments(
    config: Config, settings: Settings, model: Path, window: int, known: Collection[str]
) -> dict[str, Any]:
    """Returns keyword arguments for `sglang.Engine`; `window` is what the model was made for, `known` are the fields
    of `ServerArgs`.

    Raises EngineError for an option that SGLang does not know, or that another key of ours decides.
    """
    options = settings.options
    SGLANG.check_options(options, _OURS, known, weights=config.model.weights)
    wanted = config.model.max_model_len
    arguments: dict[str, Any] = {
        "model_path": str(model),
        "context_length": min(window, wanted + SPARE) if wanted else window,
        "max_running_requests": config.worker.max_running,
        "skip_tokenizer_init": not settings.guides,
        "incremental_streaming_output": True,
        "enable_priority_scheduling": True,
        "log_level": "warning",
        # SGLang would fill in what it finds beside the model; defaults are the router's.
        "sampling_defaults": "openai",
        **SGLANG.weight_arguments(config, options, _DTYPES),
        **options,
    }
    if settings.guides:
        # A model could fill its answer with space that a schema allows.
        arguments.setdefault("constrained_json_disable_any_whitespace", True)
        # Lark as routers check it.
        arguments.setdefault("grammar_backend", "llguidance")
    else:
        arguments.setdefault("grammar_backend", "none")
    return arguments


def engine_environment(settings: Settings) -> Mapping[str, str]:
    """Returns environment variables that SGLang's processes read and whoever starts the worker may override."""
    # Log-probabilities are those of the model, not those that temperature made of them.
    environment = {"SGLANG_RETURN_ORIGINAL_LOGPROB": "1"}
    if settings.moe_kernels:
        environment["SGLANG_MOE_CONFIG_DIR"] = settings.moe_kernels
    return environment
