"""Which quantized formats there are, which engine loads which, and what they ask of a card. Plain tables.

Sources: TensorRT-LLM 1.2.1's support matrix and loader, vLLM 0.26's list of quantization methods, ModelOpt 0.47 as it
was run on `models/qwen3-tiny`. "ModelOpt" formats are Hugging Face checkpoints with a `hf_quant_config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# What a checkpoint is, as `describe` finds it.
UNQUANTIZED = "unquantized"
GGUF = "gguf"
TRT_CHECKPOINT = "tensorrt-checkpoint"
TRT_ENGINE = "tensorrt-engine"


class Format(NamedTuple):
    """One format that `qwenserve engine quantize` makes.

    `algorithm` is its name in `hf_quant_config.json`; empty where only a TensorRT checkpoint holds it.
    `least_capability` is the compute capability that can run it, `calibrates` whether it looks at activations, `on_cpu`
    whether ModelOpt exports it without a GPU, `weight_bits` what a weight takes with its scales.
    """

    name: str
    algorithm: str
    least_capability: float
    calibrates: bool
    on_cpu: bool
    weight_bits: float
    modelopt: str


FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format("fp8", "FP8", 8.9, True, True, 8.0, "FP8_DEFAULT_CFG"),
        Format("int4_awq", "W4A16_AWQ", 8.0, True, True, 4.25, "INT4_AWQ_CFG"),
        Format("int8_sq", "W8A8_SQ_PER_CHANNEL", 8.0, True, True, 8.0, "INT8_SMOOTHQUANT_CFG"),
        Format("int8_wo", "", 8.0, False, False, 8.0, ""),
        Format("nvfp4", "NVFP4", 10.0, True, False, 4.5, "NVFP4_DEFAULT_CFG"),
    )
}

# Formats of the KV cache by name: bits of a value, and the compute capability that they need.
KV_FORMATS: Mapping[str, tuple[int, float]] = {"none": (16, 0.0), "fp8": (8, 8.9), "int8": (8, 8.0)}

_LOADS: Mapping[str, Mapping[str, str]] = {
    # Kind of checkpoint → engine → "" where it loads, else why not.
    UNQUANTIZED: {"llamacpp": "", "transformers": "", "trtllm": "", "vllm": "", "sglang": ""},
    GGUF: {
        "llamacpp": "",
        "transformers": "it reads Hugging Face directories",
        "trtllm": "it reads Hugging Face directories and its own engines",
        "vllm": "its GGUF support is experimental and not used here",
        "sglang": "its GGUF support is not used here",
    },
    "FP8": {
        "llamacpp": "llama.cpp quantizes by its own formats (GGUF)",
        "transformers": "ModelOpt checkpoints need their own loader",
        "trtllm": "",
        "vllm": "",
        "sglang": "",
    },
    "FP8_BLOCK_SCALES": {
        "llamacpp": "llama.cpp quantizes by its own formats (GGUF)",
        "transformers": "its loader wants a GPU kernel package",
        "trtllm": "",
        "vllm": "",
        "sglang": "",
    },
    "NVFP4": {
        "llamacpp": "llama.cpp quantizes by its own formats (GGUF)",
        "transformers": "ModelOpt checkpoints need their own loader",
        "trtllm": "",
        "vllm": "",
        "sglang": "",
    },
    "W4A16_AWQ": {
        "llamacpp": "llama.cpp quantizes by its own formats (GGUF)",
        "transformers": "ModelOpt checkpoints need their own loader",
        "trtllm": "",
        "vllm": "ModelOpt's AWQ is not among its methods; it loads AWQ directories of AutoAWQ",
        "sglang": "ModelOpt's AWQ is not among its methods; it loads AWQ directories of AutoAWQ",
    },
    "W8A8_SQ_PER_CHANNEL": {
        "llamacpp": "llama.cpp quantizes by its own formats (GGUF)",
        "transformers": "ModelOpt checkpoints need their own loader",
        "trtllm": "the PyTorch backend cannot run SmoothQuant; build a TensorRT engine (`qwenserve engine build`)",
        "vllm": "ModelOpt's SmoothQuant is not among its methods",
        "sglang": "ModelOpt's SmoothQuant is not among its methods",
    },
    "awq": {
        "llamacpp": "llama.cpp quantizes by its own formats (GGUF)",
        "transformers": "needs AutoAWQ, which is not used here",
        "trtllm": "1.2 refuses AWQ directories of AutoAWQ; quantize the original with --format int4_awq",
        "vllm": "",
        "sglang": "",
    },
    "gptq": {
        "llamacpp": "llama.cpp quantizes by its own formats (GGUF)",
        "transformers": "needs GPTQModel, which is not used here",
        "trtllm": "1.2 refuses GPTQ directories; quantize the original with --format int4_awq",
        "vllm": "",
        "sglang": "",
    },
    "compressed-tensors": {
        "llamacpp": "llama.cpp quantizes by its own formats (GGUF)",
        "transformers": "needs the compressed-tensors package, which is not used here",
        "trtllm": "1.2 refuses compressed-tensors directories",
        "vllm": "",
        "sglang": "",
    },
    TRT_CHECKPOINT: {
        "llamacpp": "only trtllm-build reads TensorRT checkpoints",
        "transformers": "only trtllm-build reads TensorRT checkpoints",
        "trtllm": "build an engine of it first: `qwenserve engine build`",
        "vllm": "only trtllm-build reads TensorRT checkpoints",
        "sglang": "only trtllm-build reads TensorRT checkpoints",
    },
    TRT_ENGINE: {
        "llamacpp": "a TensorRT engine runs in TensorRT-LLM alone",
        "transformers": "a TensorRT engine runs in TensorRT-LLM alone",
        "trtllm": "",
        "vllm": "a TensorRT engine runs in TensorRT-LLM alone",
        "sglang": "a TensorRT engine runs in TensorRT-LLM alone",
    },
}
ENGINES = ("llamacpp", "transformers", "trtllm", "vllm", "sglang")


def why_not(kind: str, engine: str) -> str:
    """Returns why an engine cannot load a kind of checkpoint; empty where it can."""
    known = _LOADS.get(kind)
    if known is None:
        return f"the quantization {kind!r} is not known here"
    return known[engine]


class Card(NamedTuple):
    """A GPU: its memory in GiB and its compute capability."""

    name: str
    memory_gib: float
    capability: float


CARDS = (
    Card("L4", 24, 8.9),
    Card("RTX 4090", 24, 8.9),
    Card("RTX 5090", 32, 12.0),
    Card("A100 40 GB", 40, 8.0),
    Card("L40S", 48, 8.9),
    Card("A100 80 GB", 80, 8.0),
    Card("H100", 80, 9.0),
    Card("H200", 141, 9.0),
    Card("B200", 180, 10.0),
)


def least_capability(kind: str) -> float:
    """Returns the compute capability that a kind of checkpoint needs; 0 where any card will do."""
    by_algorithm = {each.algorithm: each.least_capability for each in FORMATS.values() if each.algorithm}
    return {**by_algorithm, "FP8_BLOCK_SCALES": 8.9}.get(kind, 0.0)
