"""All that touches TensorRT-LLM itself, in one place and small: its wheels are not to be had everywhere.

Names are those of 1.2.1; a test holds every one of them against a table of that release.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.trtllm.versions import Has

# Options with keys below them that the package wants as objects of its own.
_CLASSES = {
    "kv_cache_config": "KvCacheConfig",
    "cuda_graph_config": "CudaGraphConfig",
    "scheduler_config": "SchedulerConfig",
    "moe_config": "MoeConfig",
    "attention_dp_config": "AttentionDpConfig",
    "cache_transceiver_config": "CacheTransceiverConfig",
}
_SPECULATION = {
    "MTP": "MTPDecodingConfig",
    "Eagle": "EagleDecodingConfig",
    "NGram": "NGramDecodingConfig",
    "Lookahead": "LookaheadDecodingConfig",
    "Medusa": "MedusaDecodingConfig",
    "Draft_Target": "DraftTargetDecodingConfig",
    "AUTO": "AutoDecodingConfig",
}


def is_built_engine(model: Path) -> bool:
    """Whether a directory is what `trtllm-build` writes."""
    try:
        content = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "pretrained_config" in content and "build_config" in content


class Package:
    """The installed package: its classes for one kind of model, and what it has."""

    def __init__(self, *, built_engine: bool) -> None:
        """Imports it. Raises EngineError."""
        try:
            top = import_module("tensorrt_llm")
        except ImportError as error:
            raise EngineError(
                f"worker.engine: trtllm needs the package tensorrt_llm ({error}); run NVIDIA's container for release "
                "1.2.1, or install qwenserve[trtllm] on a machine with a GPU"
            ) from None
        self._api = import_module("tensorrt_llm.llmapi")
        self.version: str = top.__version__
        if built_engine:
            try:
                self._llm: Any = import_module("tensorrt_llm._tensorrt_engine").LLM
            except (ImportError, AttributeError):
                raise EngineError(
                    f"model.reference is a built engine, and tensorrt_llm {self.version} runs none any more; give the "
                    "Hugging Face directory, or install 1.2.1"
                ) from None
            arguments = self._api.TrtLlmArgs
        else:
            self._llm = self._api.LLM
            arguments = self._api.TorchLlmArgs
        self._sampling: Any = self._api.SamplingParams
        self._request_error: type[Exception] = self._api.RequestError
        self.has = Has(
            call=frozenset(inspect.signature(self._llm.generate_async).parameters) - {"self"},
            sampling=frozenset(field.name for field in fields(self._sampling)),
            arguments=frozenset(arguments.model_fields),
        )

    def load(self, arguments: Mapping[str, Any]) -> NativeLlm:
        """Loads the model. Blocks, on the thread that called it: MPI wants the main one. Raises EngineError."""
        try:
            return NativeLlm(self, self._llm(**{name: self._as_object(name, v) for name, v in arguments.items()}))
        except Exception as error:
            raise EngineError(f"TensorRT-LLM could not load the model: {error}; its own messages are above") from error

    def sampling(
        self, arguments: Mapping[str, Any], bias: Sequence[float] | None, guide: Mapping[str, Any] | None
    ) -> Any:
        """Returns new parameters, for one request only: the engine writes into them. Raises ValueError."""
        more: dict[str, Any] = {}
        if bias is not None:
            torch = import_module("torch")
            more["embedding_bias"] = torch.tensor(bias, dtype=torch.float32)
        if guide is not None:
            more["guided_decoding"] = self._api.GuidedDecodingParams(**guide)
        return self._sampling(**arguments, **more)

    def is_refusal(self, error: BaseException) -> bool:
        """Whether an error concerns its request alone; after any other the engine has shut down."""
        return isinstance(error, (self._request_error, ValueError))

    def _as_object(self, name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if name == "speculative_config":
            kind = value.get("decoding_type", "")
            if kind not in _SPECULATION:
                raise ValueError(f"speculative_config.decoding_type: {kind!r} is not one of {', '.join(_SPECULATION)}")
            return getattr(self._api, _SPECULATION[kind])(**{k: v for k, v in value.items() if k != "decoding_type"})
        return getattr(self._api, _CLASSES[name])(**value) if name in _CLASSES else dict(value)


class NativeLlm:
    """A loaded LLM. One event loop, the one of the first request, owns every call but `shutdown`."""

    def __init__(self, package: Package, llm: Any) -> None:
        self.package = package
        self._llm = llm

    def generate(self, prompt: Sequence[int], sampling: Any, more: Mapping[str, Any]) -> Any:
        """Returns a request's result, to be iterated over: the same object each step. Raises what the package does."""
        return self._llm.generate_async(
            inputs={"prompt_token_ids": list(prompt)}, sampling_params=sampling, streaming=True, **more
        )

    @property
    def healthy(self) -> bool:
        """Whether the engine has not shut down; it knows nothing of its processes."""
        return bool(self._llm._check_health())

    def statistics(self, timeout_s: float) -> AsyncIterable[Mapping[str, Any]]:
        """Returns the statistics of the steps to come, until none came for so long."""
        values: AsyncIterable[Mapping[str, Any]] = self._llm.get_stats_async(timeout_s)
        return values

    def cache_events(self, timeout_s: float) -> AsyncIterable[Mapping[str, Any]]:
        """Returns the cache events to come, until none came for so long."""
        values: AsyncIterable[Mapping[str, Any]] = self._llm.get_kv_cache_events_async(timeout_s)
        return values

    def shutdown(self) -> None:
        """Ends the ranks. Blocks, for ever where one of them hangs."""
        self._llm.shutdown()
