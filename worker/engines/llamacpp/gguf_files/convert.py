"""Hugging Face Qwen3 directories as GGUF, planned from config, tokenizer and safetensors headers; no torch.

Matrices take the chosen type, vectors and the expert router stay float32. Dense (`Qwen3ForCausalLM`) and
mixture-of-experts (`Qwen3MoeForCausalLM`) checkpoints are known.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, LlamaFileType, quantize

from qwenserve.worker.engine_interface import EngineError
from qwenserve.worker.engines.llamacpp.gguf_files import marks, vocabulary
from qwenserve.worker.engines.llamacpp.gguf_files.checkpoint import StoredTensor, stored_tensors
from qwenserve.worker.engines.llamacpp.gguf_files.layout import Header, pack_array, pack_value, padded, place
from qwenserve.worker.engines.llamacpp.gguf_files.plan import FilePlan, Segment
from qwenserve.worker.model_facts import check_shapes
from qwenserve.worker.weight_files import weight_files

_U32, _F32, _TEXT = GGUFValueType.UINT32, GGUFValueType.FLOAT32, GGUFValueType.STRING
_ARCHITECTURES = {"Qwen3ForCausalLM": "qwen3", "Qwen3MoeForCausalLM": "qwen3moe"}
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_EXPERTS = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}


class WeightType(str, enum.Enum):
    """How matrices are stored. `F32` is for exact comparison, `Q8_0` for the least memory."""

    BF16 = "bf16"
    F16 = "f16"
    F32 = "f32"
    Q8_0 = "q8_0"

    @property
    def ggml(self) -> GGMLQuantizationType:
        return GGMLQuantizationType[self.name]

    @property
    def file_type(self) -> LlamaFileType:
        return LlamaFileType["ALL_F32" if self is WeightType.F32 else f"MOSTLY_{self.name}"]


class Target(NamedTuple):
    """A tensor of the new file: `sources` follow each other in it (experts), or it is one."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    sources: tuple[StoredTensor, ...]


def plan_conversion(directory: Path, weights: WeightType) -> FilePlan:
    """Plans the GGUF of a Hugging Face directory. Raises EngineError for what cannot be converted."""
    config = read_json(directory / "config.json")
    arch = _architecture(config, directory)
    check_shapes(directory, config)
    files = weight_files(directory)
    if not files:
        raise EngineError(f"{directory} has no *.safetensors weights; download the whole model directory")
    targets = _targets(stored_tensors(files), config, weights)
    infos = place((t.name, t.shape, t.kind) for t in targets)
    values = _model_values(config, arch, model_name(directory), weights) | _token_values(directory, config)
    return FilePlan(
        Header(values, infos).pack(), [_segment(t, padded(i.nbytes)) for t, i in zip(targets, infos, strict=True)]
    )


def model_name(directory: Path) -> str:
    """Returns a directory's model name; that of the repository for a snapshot in the hub's cache."""
    if directory.parent.name == "snapshots":
        return directory.parent.parent.name.rpartition("--")[2]
    return directory.resolve().name


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object of a model directory. Raises EngineError where it is absent or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EngineError(f"{path.parent} has no {path.name}; a Hugging Face model directory is needed") from error
    except ValueError as error:
        raise EngineError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise EngineError(f"{path} does not hold a JSON object")
    return value


def _architecture(config: Mapping[str, Any], directory: Path) -> str:
    names = config.get("architectures") or ["none named"]
    if names[0] not in _ARCHITECTURES:
        raise EngineError(
            f"{directory.name} is {names[0]}; the converter knows {' and '.join(_ARCHITECTURES)}. "
            "Take a GGUF file of this model instead"
        )
    if "quantization_config" in config:
        raise EngineError(f"{directory.name} is quantized; convert its unquantized sibling, or take a GGUF file")
    return _ARCHITECTURES[names[0]]


def _model_values(config: Mapping[str, Any], arch: str, name: str, weights: WeightType) -> dict[str, bytes]:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    theta = rope.get("rope_theta") or config.get("rope_theta", 1e6)
    numbers = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
    }
    if arch == "qwen3moe":
        if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
            raise EngineError(f"{name} mixes dense and expert layers, which llama.cpp's qwen3moe does not know")
        numbers |= {
            "expert_count": config.get("num_experts") or config["num_local_experts"],
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
        }
    values = {
        "general.architecture": pack_value(_TEXT, arch),
        "general.name": pack_value(_TEXT, name),
        "general.file_type": pack_value(_U32, int(weights.file_type)),
    }
    values |= {f"{arch}.{key}": pack_value(_U32, int(number)) for key, number in numbers.items()}
    values[f"{arch}.attention.layer_norm_rms_epsilon"] = pack_value(_F32, config["rms_norm_eps"])
    values[f"{arch}.rope.freq_base"] = pack_value(_F32, float(theta))
    return values | _rope_scaling(config.get("rope_scaling") or rope, arch)


def _rope_scaling(scaling: Mapping[str, Any], arch: str) -> dict[str, bytes]:
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return {}
    if kind not in ("yarn", "linear"):
        raise EngineError(f"rope scaling {kind!r} is not known; yarn and linear are")
    values = {
        f"{arch}.rope.scaling.type": pack_value(_TEXT, kind),
        f"{arch}.rope.scaling.factor": pack_value(_F32, float(scaling["factor"])),
    }
    original = scaling.get("original_max_position_embeddings")
    if original:
        values[f"{arch}.rope.scaling.original_context_length"] = pack_value(_U32, int(original))
    return values


def _token_values(directory: Path, config: Mapping[str, Any]) -> dict[str, bytes]:
    tokenizer = read_json(directory / "tokenizer.json")
    try:
        words = vocabulary.from_tokenizer_json(tokenizer, config["vocab_size"])
        merges = vocabulary.merges(tokenizer)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{directory / 'tokenizer.json'} is not a byte-level BPE tokenizer: {error!r}") from error
    ends = end_token_ids(directory, config)
    values = {
        "tokenizer.ggml.model": pack_value(_TEXT, "gpt2"),
        "tokenizer.ggml.pre": pack_value(_TEXT, "qwen2"),
        "tokenizer.ggml.tokens": pack_array(_TEXT, words.texts),
        "tokenizer.ggml.token_type": pack_array(GGUFValueType.INT32, words.kinds),
        "tokenizer.ggml.merges": pack_array(_TEXT, merges),
        "tokenizer.ggml.eos_token_id": pack_value(_U32, ends[0]),
        "tokenizer.ggml.add_bos_token": pack_value(GGUFValueType.BOOL, False),
    }
    return values | marks.packed(words.replaced, ends)


def end_token_ids(directory: Path, config: Mapping[str, Any]) -> list[int]:
    """Returns the model's end tokens: those of generation_config.json, else of config.json; one or more."""
    generation = directory / "generation_config.json"
    stated = read_json(generation).get("eos_token_id") if generation.exists() else None
    if stated is None:
        stated = config.get("eos_token_id")
    ends = [stated] if isinstance(stated, int) else list(stated or ())
    if not ends:
        raise EngineError(f"{directory.name} names no eos_token_id in generation_config.json or config.json")
    return ends


def _targets(stored: Mapping[str, StoredTensor], config: Mapping[str, Any], weights: WeightType) -> list[Target]:
    """Returns the new file's tensors in the order in which the model computes with them."""
    targets = []
    for name, tensor in stored.items():
        if ".mlp.experts." in name or (name == "lm_head.weight" and config.get("tie_word_embeddings")):
            continue
        new = _new_name(name)
        targets.append(Target(new, tensor.shape, _kind(new, tensor.shape, weights), (tensor,)))
    targets += _expert_targets(stored, config, weights)
    return sorted(targets, key=lambda t: _place_in_model(t.name))


def _expert_targets(stored: Mapping[str, StoredTensor], config: Mapping[str, Any], weights: WeightType) -> list[Target]:
    grouped: dict[str, dict[int, StoredTensor]] = {}
    for name, tensor in stored.items():
        front, found, rest = name.partition(".mlp.experts.")
        if not found:
            continue
        try:
            number, projection, _ = rest.split(".")
            new = f"blk.{front.removeprefix('model.layers.')}.{_EXPERTS[projection]}.weight"
            grouped.setdefault(new, {})[int(number)] = tensor
        except (KeyError, ValueError) as error:
            raise EngineError(f"expert tensor {name} is not named as Qwen3's checkpoints name theirs") from error
    targets = []
    for new, experts in grouped.items():
        count = config.get("num_experts") or config["num_local_experts"]
        if sorted(experts) != list(range(count)):
            raise EngineError(f"{new}: {len(experts)} of {count} experts are in the checkpoint; download it again")
        shape = (count, *experts[0].shape)
        targets.append(Target(new, shape, _kind(new, shape, weights), tuple(experts[i] for i in range(count))))
    return targets


def _new_name(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    parts = name.removesuffix(".weight").split(".", 3)
    if len(parts) == 4 and parts[:2] == ["model", "layers"] and parts[3] in _LAYER and name.endswith(".weight"):
        return f"blk.{parts[2]}.{_LAYER[parts[3]]}.weight"
    raise EngineError(f"tensor {name} is not part of a Qwen3 model; the converter would have to drop it")


def _place_in_model(name: str) -> tuple[int, str]:
    if name.startswith("blk."):
        return int(name.split(".")[1]), name
    return (-1, name) if name == "token_embd.weight" else (1 << 30, name)


def _kind(name: str, shape: Sequence[int], weights: WeightType) -> GGMLQuantizationType:
    if len(shape) == 1 or "ffn_gate_inp" in name:
        return GGMLQuantizationType.F32
    if shape[-1] % GGML_QUANT_SIZES[weights.ggml][0]:
        return GGMLQuantizationType.F16  # rows that do not divide into quantized blocks
    return weights.ggml


def _segment(target: Target, nbytes: int) -> Segment:
    make: Callable[[], Iterator[memoryview]] = partial(_pieces, target)
    return Segment(nbytes, make)


def _pieces(target: Target) -> Iterator[memoryview]:
    for source in target.sources:
        if target.kind.name == source.dtype:
            for raw in source.raw_rows():
                yield np.ascontiguousarray(raw).data.cast("B")
        else:
            for rows in source.rows():
                yield np.ascontiguousarray(quantize(rows, target.kind)).data.cast("B")
