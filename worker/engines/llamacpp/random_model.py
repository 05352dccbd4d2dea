"""Random weights for a Qwen3 directory that has a config and no weights: same seed, same bytes.

Such a model says nothing sensible, but everything around it is real: conversion, loading, scheduling, ids.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenserve.worker.model_facts import check_shapes

# Wide enough that greedy choices are rarely near-ties, so that two engines can be compared.
_SPREAD = 0.08
_COPIED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def make_random_model(source: Path, target: Path, *, seed: int = 0, dtype: str = "BF16") -> Path:
    """Copies config and tokenizer of `source` to `target` and writes `model.safetensors` there.

    `dtype` is BF16 or F32. Returns `target`.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        if (source / name).exists() and source != target:
            shutil.copyfile(source / name, target / name)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    check_shapes(target, config)
    temporary = target / f"model.safetensors.{os.getpid()}.tmp"
    _write_safetensors(temporary, dict(_shapes(config)), seed, dtype)
    os.replace(temporary, target / "model.safetensors")
    return target


def random_copy(source: Path, cache: Path) -> Path:
    """Returns a directory below `cache` with the config and tokenizer of `source` and random weights, made once."""
    digest = hashlib.sha256()
    for name in _COPIED:
        content = (source / name).read_bytes() if (source / name).exists() else b""
        digest.update(f"{name} {len(content)}\n".encode() + content)
    target = cache / digest.hexdigest()[:16] / source.name
    if not (target / "model.safetensors").exists():
        make_random_model(source, target)
    return target


def _shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = config["hidden_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        yield f"{layer}.self_attn.q_norm.weight", (head_dim,)
        yield f"{layer}.self_attn.k_norm.weight", (head_dim,)
        yield f"{layer}.self_attn.q_proj.weight", (heads * head_dim, hidden)
        yield f"{layer}.self_attn.k_proj.weight", (kv_heads * head_dim, hidden)
        yield f"{layer}.self_attn.v_proj.weight", (kv_heads * head_dim, hidden)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, heads * head_dim)
        if "num_experts" in config:
            yield f"{layer}.mlp.gate.weight", (config["num_experts"], hidden)
            for e in range(config["num_experts"]):
                yield from _mlp(f"{layer}.mlp.experts.{e}", hidden, config["moe_intermediate_size"])
        else:
            yield from _mlp(f"{layer}.mlp", hidden, config["intermediate_size"])
    yield "model.norm.weight", (hidden,)
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", (config["vocab_size"], hidden)


def _mlp(prefix: str, hidden: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.gate_proj.weight", (inner, hidden)
    yield f"{prefix}.up_proj.weight", (inner, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, inner)


def _write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], seed: int, dtype: str) -> None:
    width = {"BF16": 2, "F32": 4}[dtype]
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + width * int(np.prod(shape))
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    random = np.random.RandomState(seed)  # the one numpy generator whose numbers are promised never to change
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for shape in shapes.values():
            values = (_SPREAD * random.standard_normal(shape)).astype(np.float32)
            if len(shape) == 1:
                values += np.float32(1)  # norms
            file.write(values.tobytes() if dtype == "F32" else _bf16(values).tobytes())


def _bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounds to bfloat16, half to even; the values are finite."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def main() -> None:
    """For trying things before real weights exist.

    `python -m qwenserve.worker.engines.llamacpp.random_model SOURCE TARGET`
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source", type=Path, help="directory with config.json and tokenizer.json")
    parser.add_argument("target", type=Path, help="directory to make")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["BF16", "F32"], default="BF16")
    args = parser.parse_args()
    make_random_model(args.source, args.target, seed=args.seed, dtype=args.dtype)


if __name__ == "__main__":
    main()
