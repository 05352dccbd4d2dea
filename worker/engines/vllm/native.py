"""All that touches vLLM itself. Imported by whoever loads a model, and by nobody else: importing vLLM takes 15 s.

Names are those of vLLM 0.26; `tests/worker/engines/vllm` has what is known of it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.vllm.sampling import StructuredOutput

# Below AsyncLLM nothing is promised: these versions have been read, and run.
_CORE_VERSIONS = ("0.26.",)
_CORE_NAMES = ("add_request_async", "abort_requests_async", "outputs_queue", "resources", "_ensure_output_queue_task")


def argument_names() -> frozenset[str]:
    """Returns what `AsyncEngineArgs` takes."""
    from dataclasses import fields

    from vllm import AsyncEngineArgs

    return frozenset(field.name for field in fields(AsyncEngineArgs))


class NativeVllm:
    """A loaded AsyncLLM and the classes that its requests are made of."""

    def __init__(self, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        """Blocks until the model is loaded. Raises EngineError."""
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        import vllm
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.async_llm import AsyncLLM

        self._parameters: Any = vllm.SamplingParams
        self._structured: Any = StructuredOutputsParams
        self._delta = RequestOutputKind.DELTA
        self.version: str = vllm.__version__
        try:
            # A logger of our own turns on the statistics that come with each step, and none of vLLM's loggers.
            self.engine: Any = AsyncLLM.from_engine_args(
                vllm.AsyncEngineArgs(**arguments), stat_loggers=[lambda *_: _NoLogger()]
            )
        except Exception as error:
            raise EngineError(f"vLLM could not load the model: {error}; its own messages are above") from error
        config = self.engine.vllm_config
        self.max_model_len: int = config.model_config.max_model_len
        self.vocab_size: int = config.model_config.get_vocab_size()
        self.block_tokens: int = config.cache_config.block_size
        self.blocks: int = config.cache_config.num_gpu_blocks or 0
        self.core: Any = self.engine.engine_core
        self.options: Mapping[str, Any] = {**arguments, **_resolved(config)}

    @property
    def core_is_known(self) -> bool:
        """Whether the steps of the core can be read without AsyncLLM."""
        return self.version.startswith(_CORE_VERSIONS) and all(hasattr(self.core, name) for name in _CORE_NAMES)

    def give_steps_to(self, take: Callable[[Any], None]) -> None:
        """Calls `take` with what the core says from now on: `EngineCoreOutputs`, and an exception when it has died.

        vLLM's task that reads the core's socket puts both into a queue, for another task to get them out. With what
        `take` is in the queue's place there is no second task to wake in each step.
        """
        from qwenserve.worker.engines.vllm.step_socket import read_with_fewer_steps

        read_with_fewer_steps(self.core.resources.output_socket)
        self.core.outputs_queue = _Taker(take)
        self.core._ensure_output_queue_task()

    def parameters(self, arguments: Mapping[str, Any], structured: StructuredOutput | None) -> Any:
        """Returns new sampling parameters. Raises ValueError."""
        guide = {"structured_outputs": self._structured(**{structured.name: structured.value})} if structured else {}
        return self._parameters(output_kind=self._delta, **arguments, **guide)

    def core_request(self, request_id: str, prompt: Sequence[int], salt: str, parameters: Any, priority: int) -> Any:
        """Returns a request for the core, checked by vLLM. Raises ValueError."""
        made = self.engine.input_processor.process_inputs(
            request_id, _prompt(prompt, salt), parameters, supported_tasks=("generate",), priority=priority
        )
        self.engine.input_processor.assign_request_id(made)
        return made

    def generate(
        self, request_id: str, prompt: Sequence[int], salt: str, parameters: Any, priority: int, traceparent: str
    ) -> AsyncGenerator[Any, None]:
        """Returns the outputs of a request, through AsyncLLM, whose span is a child of `traceparent`."""
        outputs: AsyncGenerator[Any, None] = self.engine.generate(
            _prompt(prompt, salt),
            parameters,
            request_id,
            trace_headers={"traceparent": traceparent} if traceparent else None,
            priority=priority,
        )
        return outputs

    def is_dead(self, error: BaseException) -> bool:
        """Whether an error says that the core is gone."""
        from vllm.v1.engine.exceptions import EngineDeadError

        return isinstance(error, EngineDeadError)

    @property
    def errored(self) -> bool:
        """Whether the core has died."""
        return bool(self.engine.errored)

    def close(self) -> None:
        """Ends the core's process. Blocks."""
        self.engine.shutdown()


def _resolved(config: Any) -> dict[str, Any]:
    """Returns what vLLM made of options, or chose itself."""
    model, cache, scheduler = config.model_config, config.cache_config, config.scheduler_config
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": model.quantization,
        "max_model_len": model.max_model_len,
        "kv_cache_dtype": cache.cache_dtype,
        "block_size": cache.block_size,
        "num_gpu_blocks": cache.num_gpu_blocks,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
    }


class _Taker(NamedTuple):
    """What vLLM's reading task uses of a queue."""

    put_nowait: Callable[[Any], None]


class _NoLogger:
    """Takes the statistics of a step and keeps nothing: those that count are read where the steps are."""

    kv_cache_usage = 0.0

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def _prompt(token_ids: Sequence[int], salt: str) -> dict[str, Any]:
    prompt: dict[str, Any] = {"type": "token", "prompt_token_ids": list(token_ids)}
    return {**prompt, "cache_salt": salt} if salt else prompt
