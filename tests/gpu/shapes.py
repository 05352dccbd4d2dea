"""Directories of a model's shape: `python -m tests.gpu.shapes NAME TOKENIZER_DIRECTORY OUT`.

`qwen3-4b` and `qwen3-0.6b` are for speed: a configuration without weights, for engines that fill in their own.
`experts` (Qwen3-30B-A3B) and `next` (Qwen3-Next-80B-A3B) are cut to a few layers and hold random weights, the same each
time, in 16 bits; `next` has a layer that predicts further tokens. Needs torch and safetensors for those two.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
_COMMON: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 151936,
}
_DENSE = {
    **_COMMON,
    "architectures": ["Qwen3ForCausalLM"],
    "head_dim": 128,
    "model_type": "qwen3",
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "qwen3-4b": {
        **_DENSE,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
    },
    "qwen3-0.6b": {
        **_DENSE,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
    },
    "experts": {
        **_COMMON,
        "architectures": ["Qwen3MoeForCausalLM"],
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "next": {
        **_COMMON,
        "architectures": ["Qwen3NextForCausalLM"],
        "decoder_sparse_step": 1,
        "full_attention_interval": 4,
        "head_dim": 256,
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_value_head_dim": 128,
        "mlp_only_layers": [],
        "model_type": "qwen3_next",
        "moe_intermediate_size": 512,
        "norm_topk_prob": True,
        "num_attention_heads": 16,
        # Of 512: what is left out changes no code that runs.
        "num_experts": 64,
        "num_experts_per_tok": 10,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "num_nextn_predict_layers": 1,
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000000,
        "shared_expert_intermediate_size": 512,
        "tie_word_embeddings": False,
    },
}

Shape = tuple[int, ...]


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of a mixture of experts, as its published checkpoints have them."""
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", (vocab, hidden)
    yield "lm_head.weight", (vocab, hidden)
    yield "model.norm.weight", (hidden,)
    is_next = config["model_type"] == "qwen3_next"
    for number in range(config["num_hidden_layers"]):
        linear = is_next and (number + 1) % config["full_attention_interval"] != 0
        yield from _layer(config, f"model.layers.{number}", linear)
    if is_next:
        yield "mtp.fc.weight", (hidden, 2 * hidden)
        for name in ("norm", "pre_fc_norm_hidden", "pre_fc_norm_embedding"):
            yield f"mtp.{name}.weight", (hidden,)
        yield from _layer(config, "mtp.layers.0", linear=False)


def _layer(config: dict[str, Any], prefix: str, linear: bool) -> Iterator[tuple[str, Shape]]:
    hidden = config["hidden_size"]
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield f"{prefix}.{name}.weight", (hidden,)
    yield from _linear_attention(config, prefix) if linear else _attention(config, prefix)
    yield f"{prefix}.mlp.gate.weight", (config["num_experts"], hidden)
    for expert in range(config["num_experts"]):
        yield from _feed_forward(f"{prefix}.mlp.experts.{expert}", hidden, config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        yield from _feed_forward(f"{prefix}.mlp.shared_expert", hidden, config["shared_expert_intermediate_size"])
        yield f"{prefix}.mlp.shared_expert_gate.weight", (1, hidden)


def _feed_forward(prefix: str, hidden: int, inner: int) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}.gate_proj.weight", (inner, hidden)
    yield f"{prefix}.up_proj.weight", (inner, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, inner)


def _attention(config: dict[str, Any], prefix: str) -> Iterator[tuple[str, Shape]]:
    hidden, size = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    # Qwen3-Next has a gate beside each query.
    yield f"{prefix}.self_attn.q_proj.weight", (queries * (2 if config["model_type"] == "qwen3_next" else 1), hidden)
    yield f"{prefix}.self_attn.k_proj.weight", (keys, hidden)
    yield f"{prefix}.self_attn.v_proj.weight", (keys, hidden)
    yield f"{prefix}.self_attn.o_proj.weight", (hidden, queries)
    yield f"{prefix}.self_attn.q_norm.weight", (size,)
    yield f"{prefix}.self_attn.k_norm.weight", (size,)


def _linear_attention(config: dict[str, Any], prefix: str) -> Iterator[tuple[str, Shape]]:
    hidden, heads = config["hidden_size"], config["linear_num_value_heads"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = heads * config["linear_value_head_dim"]
    yield f"{prefix}.linear_attn.in_proj_qkvz.weight", (2 * keys + 2 * values, hidden)
    yield f"{prefix}.linear_attn.in_proj_ba.weight", (2 * heads, hidden)
    yield f"{prefix}.linear_attn.conv1d.weight", (2 * keys + values, 1, config["linear_conv_kernel_dim"])
    yield f"{prefix}.linear_attn.dt_bias", (heads,)
    yield f"{prefix}.linear_attn.A_log", (heads,)
    yield f"{prefix}.linear_attn.norm.weight", (config["linear_value_head_dim"],)
    yield f"{prefix}.linear_attn.out_proj.weight", (hidden, values)


def write_weights(config: dict[str, Any], directory: Path) -> None:
    """Writes random weights, large enough that each layer counts."""
    import torch
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator(device).manual_seed(1)
    made = {}
    for name, shape in tensors(config):
        if len(shape) == 1:
            # Qwen3-Next's norms add one to their weights, but for the one inside of linear attention.
            whole = config["model_type"] != "qwen3_next" or "linear_attn" in name
            made[name] = torch.full(shape, 1.0 if whole else 0.0, dtype=torch.bfloat16)
        else:
            spread = shape[-1] ** -0.5
            values = torch.empty(shape, device=device).normal_(0.0, spread, generator=draw)
            made[name] = values.to(torch.bfloat16).cpu()
    if config["model_type"] == "qwen3_next":
        _count_up(made)
    save_file(made, directory / "model.safetensors", metadata={"format": "pt"})


def _count_up(made: dict[str, Any]) -> None:
    """Lets an id mostly be followed by the next higher one, for the model and for the layer that predicts further
    tokens: random weights of their own would hardly ever agree. All other layers stay random, and now and then decide.
    """
    import torch

    embeddings = made["model.embed_tokens.weight"].float()
    hidden = embeddings.shape[1]
    embeddings *= 0.2 * hidden**0.5
    made["model.embed_tokens.weight"] = embeddings.to(torch.bfloat16)
    made["lm_head.weight"] = torch.roll(embeddings, 1, dims=0).to(torch.bfloat16).contiguous()
    # Of what it is given, the id before and the state behind it, the former.
    made["mtp.fc.weight"] = torch.cat([torch.eye(hidden), torch.zeros(hidden, hidden)], dim=1).to(torch.bfloat16)


def make(name: str, tokenizer: Path, out: Path) -> None:
    """Writes the directory of a shape."""
    config = CONFIGURATIONS[name]
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2))
    for file in _TOKENIZER:
        shutil.copy(tokenizer / file, out / file)
    if config["model_type"] != "qwen3":
        write_weights(config, out)


def main(arguments: Sequence[str]) -> None:
    name, tokenizer, out = arguments
    make(name, Path(tokenizer), Path(out))


if __name__ == "__main__":
    main(sys.argv[1:])
