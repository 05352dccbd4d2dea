"""What a model on disk is, without loading it: its configuration, the headers of its weights, its quantization."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from qwenserve.worker.prepare.formats import GGUF, TRT_CHECKPOINT, TRT_ENGINE, UNQUANTIZED

# A header of more than this is no header: the largest published models need about 10 MB.
_MAX_HEADER = 100 << 20
_PACKED_PER_INT32 = 8  # int4 weights of AWQ and GPTQ


class NotAModel(Exception):
    """The path holds no model that can be described. The text says what was looked for."""


class Shape(NamedTuple):
    """The numbers of a decoder that its memory depends on. `experts` is 0 for a dense model."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    experts: int = 0
    expert_intermediate: int = 0

    @property
    def parameters(self) -> int:
        """Number of weights, by the architecture's formula."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads) + 2 * self.head_dim
        if self.experts:
            mlp = self.experts * 3 * self.hidden * self.expert_intermediate + self.hidden * self.experts
        else:
            mlp = 3 * self.hidden * self.intermediate
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (attention + mlp + 2 * self.hidden) + self.hidden


class Description(NamedTuple):
    """One model on disk. `kind` is what `formats.why_not` takes; without weights `weight_bytes` is 0 and `parameters`
    by formula. `tokenizer` is a digest of tokenizer.json, empty where there is none.
    """

    path: str
    architecture: str
    kind: str
    kv_cache: str
    dtype: str
    window: int
    shape: Shape | None
    parameters: int
    weight_bytes: int
    tokenizer: str
    notes: tuple[str, ...] = ()


def describe(path: Path) -> Description:
    """Returns what a model directory or GGUF file is. Raises NotAModel."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise NotAModel(f"{path} is neither a directory nor a .gguf file")
        return _gguf(path)
    if not path.is_dir():
        raise NotAModel(f"{path} does not exist")
    config_file = path / "config.json"
    if not config_file.exists():
        found = sorted(path.glob("*.gguf"))
        if len(found) == 1:
            return _gguf(found[0])
        raise NotAModel(f"{path} has no config.json")
    config = _json(config_file)
    if "build_config" in config and "pretrained_config" in config:
        return _tensorrt(path, config["pretrained_config"], TRT_ENGINE, "*.engine")
    if "architecture" in config and "mapping" in config:
        return _tensorrt(path, config, TRT_CHECKPOINT, "rank*.safetensors")
    return _hugging_face(path, config)


def content_hash(path: Path) -> str:
    """Returns 32 hex digits over all files of a model, names and contents. Reads everything: for builds, which take
    minutes, not for start-up."""
    digest = hashlib.blake2b(digest_size=16)
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    for file in files:
        digest.update(f"{file.relative_to(path.parent if path.is_file() else path)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _hugging_face(path: Path, config: dict[str, Any]) -> Description:
    text: dict[str, Any] = config.get("text_config") or config
    architectures = config.get("architectures") or ["unknown"]
    kind, kv_cache, notes = _quantization(path, config)
    shape = _shape(text)
    tensors = list(_tensors(path))
    names = {name for name, _, _ in tensors}
    parameters = sum(_count(name, dtype, size) for name, dtype, size in tensors if not name.endswith(_SCALES))
    if not tensors:
        notes += ("no weights: parameters are by the formula",)
        parameters = shape.parameters if shape is not None else 0
    elif shape is not None and kind != UNQUANTIZED:
        # Packed weights come in forms of their own; the formula knows.
        parameters = shape.parameters
    if not (path / "tokenizer.json").exists():
        notes += ("no tokenizer.json: a router needs the original's",)
    if shape is not None and "lm_head.weight" in names and shape.tied:
        notes += ("tied embeddings, and yet an lm_head.weight",)
    return Description(
        str(path),
        str(architectures[0]),
        kind,
        kv_cache,
        str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or "unknown"),
        int(text.get("max_position_embeddings", 0)),
        shape,
        parameters,
        sum(file.stat().st_size for file in path.glob("*.safetensors")),
        _tokenizer(path),
        notes,
    )


_SCALES = (
    *(".scales", ".qzeros", ".g_idx", ".pre_quant_scale"),
    *("_scale", "_scale_2", "_scale_inv"),
)


def _count(name: str, dtype: str, size: int) -> int:
    return size * _PACKED_PER_INT32 if name.endswith(".qweight") and dtype == "I32" else size


def _quantization(path: Path, config: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """Returns kind, KV cache and notes. ModelOpt's file wins over the configuration: its export writes both."""
    modelopt = path / "hf_quant_config.json"
    if modelopt.exists():
        quantization = _json(modelopt).get("quantization") or {}
        algorithm = quantization.get("quant_algo") or UNQUANTIZED
        return str(algorithm), str(quantization.get("kv_cache_quant_algo") or "none").lower(), ()
    asked = config.get("quantization_config")
    if not isinstance(asked, dict):
        return UNQUANTIZED, "none", ()
    method = str(asked.get("quant_method", "unknown"))
    if method == "modelopt":
        return str(asked.get("quant_algo", "unknown")), str(asked.get("kv_cache_quant_algo") or "none").lower(), ()
    if method == "fp8":
        block = asked.get("weight_block_size")
        return ("FP8_BLOCK_SCALES", "none", ()) if block else ("FP8", "none", ())
    bits = asked.get("bits")
    return method, "none", (f"{bits} bits, groups of {asked.get('group_size')}",) if bits else ()


def _shape(config: dict[str, Any]) -> Shape | None:
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return Shape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            intermediate=int(config.get("intermediate_size") or 0),
            vocab=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            experts=int(config.get("num_experts") or 0),
            expert_intermediate=int(config.get("moe_intermediate_size") or 0),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _tensors(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yields name, number format and number of elements of each tensor, from the files' headers alone."""
    for file in sorted(path.glob("*.safetensors")):
        with file.open("rb") as stream:
            head = stream.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if not 2 <= length <= min(_MAX_HEADER, file.stat().st_size):
                raise NotAModel(f"{file} is no safetensors file: its header has {length} bytes")
            try:
                header = json.loads(stream.read(length))
                rows = [
                    (name, str(each["dtype"]), math.prod(each["shape"]))
                    for name, each in header.items()
                    if name != "__metadata__"
                ]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise NotAModel(f"{file} is no safetensors file: {error!r}") from None
        yield from rows


def _tensorrt(path: Path, config: dict[str, Any], kind: str, pattern: str) -> Description:
    quantization = config.get("quantization") or {}
    shape = _shape(
        {
            **config,
            "head_dim": config.get("head_size"),
            "tie_word_embeddings": False,
            "num_experts": (config.get("moe") or {}).get("num_experts"),
        }
    )
    mapping = config.get("mapping") or {}
    algorithm = quantization.get("quant_algo") or UNQUANTIZED
    return Description(
        str(path),
        str(config.get("architecture", "unknown")),
        kind,
        str(quantization.get("kv_cache_quant_algo") or "none").lower(),
        str(config.get("dtype", "unknown")),
        int(config.get("max_position_embeddings", 0)),
        shape,
        shape.parameters if shape is not None else 0,
        sum(file.stat().st_size for file in path.glob(pattern)),
        _tokenizer(path),
        (f"weights: {algorithm}", f"made for tensor parallel {mapping.get('tp_size', 1)}"),
    )


def _gguf(path: Path) -> Description:
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:
        # The reader's own errors are of many kinds, and a damaged file can make any of them.
        raise NotAModel(f"{path} is no GGUF file: {error}") from None
    values = {name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1}
    architecture = str(values.get("general.architecture", "unknown"))

    def number(name: str) -> int:
        return int(values.get(f"{architecture}.{name}", 0) or 0)

    heads = number("attention.head_count") or 1
    names = {tensor.name for tensor in reader.tensors}
    vocab = next((int(tensor.shape[-1]) for tensor in reader.tensors if tensor.name == "token_embd.weight"), 0)
    shape = Shape(
        layers=number("block_count"),
        hidden=number("embedding_length"),
        heads=heads,
        kv_heads=number("attention.head_count_kv") or heads,
        head_dim=number("attention.key_length") or number("embedding_length") // heads,
        intermediate=number("feed_forward_length"),
        vocab=vocab,
        tied="output.weight" not in names,
        experts=number("expert_count"),
        expert_intermediate=number("expert_feed_forward_length"),
    )
    kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    return Description(
        str(path),
        architecture,
        GGUF,
        "none",
        ", ".join(kinds),
        number("context_length"),
        shape,
        sum(int(tensor.n_elements) for tensor in reader.tensors),
        path.stat().st_size,
        "",
    )


def _tokenizer(path: Path) -> str:
    file = path / "tokenizer.json"
    return hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest() if file.exists() else ""


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NotAModel(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise NotAModel(f"{file} is not a JSON object")
    return content
