"""Settings of the embedded engine, and what they come to on this machine and for this model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp.gguf_files import ModelFacts
from qwenserve.worker.engines.llamacpp.machine import Machine

# llama.cpp rounds each slot's context up to this.
_CONTEXT_STEP = 256
# Where the configuration sets no context length, the KV cache takes at most this share of the free memory.
_MEMORY_SHARE = 0.5
# And kept beginnings of prompts this one, whatever is set.
_KEPT_SHARE = 0.125
_KV_BYTES = {"f16": 2, "f32": 4}


@dataclass(frozen=True, slots=True)
class LlamaCppConfig:
    """How to run one model.

    `gguf` is a file that `gguf_files.engine_file` has prepared. `max_model_len` counts the tokens of prompt
    and answer together, for each of the `max_running` slots; 0 takes the model's own length, or what half of
    the free memory has room for. `batch_tokens` is the most that one step computes: a smaller number lets
    running answers move more often while a long prompt is read. `prefix_memory_mib` is the most that beginnings of
    prompts take outside of the slots, on Linux; an eighth of the free memory is a limit too, and 0 keeps none.
    `end_token_ids` empty takes the model's own.
    `kv_type` f32 makes results exact and takes twice the memory. `threads` 0 takes all cores.
    """

    gguf: Path
    # The model as it was before: a directory with its tokenizer.json, or a GGUF file. None: no guides are followed.
    model: Path | None = None
    max_running: int = 8
    max_model_len: int = 0
    threads: int = 0
    kv_type: Literal["f16", "f32"] = "f16"
    batch_tokens: int = 128
    prefix_memory_mib: int = 512
    gpu_layers: int = -1
    end_token_ids: frozenset[int] = frozenset()
    start_timeout_s: float = 600.0
    stop_timeout_s: float = 60.0


class Dimensions(NamedTuple):
    """What is really set up: `slot_tokens` is `max_model_len` as llama.cpp rounds it. A token takes `token_bytes` of a
    slot, and beginnings of prompts `kept_bytes` outside of them.
    """

    max_model_len: int
    slot_tokens: int
    threads: int
    end_token_ids: frozenset[int]
    token_bytes: int
    kept_bytes: int


def llamacpp_environment() -> Mapping[str, str]:
    """Returns the variables to set before a process loads OpenMP.

    With the default, idle OpenMP threads spin, and on shared cores they then take the time that the others
    need. The engine sets them itself where OpenMP is not loaded yet.
    """
    return {"OMP_WAIT_POLICY": "passive"}


def dimensions(config: LlamaCppConfig, facts: ModelFacts, machine: Machine) -> Dimensions:
    """Works out lengths and threads. Raises EngineError where the model or the memory does not allow them."""
    if config.max_running < 1:
        raise EngineError(f"max_running is {config.max_running}; it must be 1 or more")
    if config.batch_tokens <= config.max_running:
        raise EngineError(
            f"batch_tokens is {config.batch_tokens} and max_running {config.max_running}: with all slots answering "
            "there would be no room in a step to read a prompt; raise batch_tokens"
        )
    if config.max_model_len > facts.context_length:
        raise EngineError(
            f"max_model_len is {config.max_model_len} ; {facts.name} was made for {facts.context_length} at most"
        )
    ends = config.end_token_ids or frozenset(facts.end_token_ids)
    if not ends or max(ends) >= facts.vocab_size or min(ends) < 0:
        raise EngineError(f"end tokens {sorted(ends)} do not fit a vocabulary of {facts.vocab_size}")
    token_bytes = facts.kv_elements_per_token * _KV_BYTES[config.kv_type]
    all_slots_bytes = token_bytes * config.max_running
    length = config.max_model_len or facts.context_length
    if all_slots_bytes * _rounded(length) > _MEMORY_SHARE * machine.free_memory_bytes:
        room = int(_MEMORY_SHARE * machine.free_memory_bytes / all_slots_bytes) // _CONTEXT_STEP * _CONTEXT_STEP
        if config.max_model_len or room < _CONTEXT_STEP:
            raise EngineError(
                f"the KV cache for {config.max_running} requests of {length} tokens takes "
                f"{all_slots_bytes * length >> 20} MiB, more than half of the {machine.free_memory_bytes >> 20} MiB "
                f"free; lower max_running, or max_model_len to {room}"
            )
        length = room
    kept_bytes = min(config.prefix_memory_mib << 20, int(_KEPT_SHARE * machine.free_memory_bytes))
    return Dimensions(length, _rounded(length), config.threads or machine.cores, ends, token_bytes, kept_bytes)


def _rounded(length: int) -> int:
    return -(-length // _CONTEXT_STEP) * _CONTEXT_STEP
