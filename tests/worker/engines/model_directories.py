"""A small Qwen3 model directory made on the spot: random weights, a byte-level vocabulary of 320 ids.

Ids 0 to 255 are the bytes, so that half of them end inside a character; then come a few merged tokens, the control
tokens, and ids that the tokenizer does not know.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenserve.worker.engines.llamacpp.random_model import make_random_model

VOCAB = 320
CONTEXT = 2048
MERGED = ("Ġt", "he", "ä½")  # " t", "he", and the first two bytes of 你
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>")
FIRST_CONTROL = 256 + len(MERGED)
END = FIRST_CONTROL + 2
OTHER_END = FIRST_CONTROL
# llama.cpp ends at this token too, though the model does not name it.
FOREIGN_END = FIRST_CONTROL + 3
THINK = FIRST_CONTROL + 4


def write_model(directory: Path, *, experts: int = 0, seed: int = 1, dtype: str = "F32") -> Path:
    """Writes config, tokenizer and weights; returns `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "config.json", _config(experts))
    _write(directory / "generation_config.json", {"eos_token_id": [END, OTHER_END]})
    _write(directory / "tokenizer.json", tokenizer())
    return make_random_model(directory, directory, seed=seed, dtype=dtype)


def _config(experts: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["Qwen3MoeForCausalLM" if experts else "Qwen3ForCausalLM"],
        "model_type": "qwen3_moe" if experts else "qwen3",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "max_position_embeddings": CONTEXT,
        "vocab_size": VOCAB,
        "tie_word_embeddings": not experts,
        "eos_token_id": END,
        "attention_bias": False,
    }
    if experts:
        config |= {
            "num_experts": experts,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    return config


def byte_chars() -> list[str]:
    """Returns the printable character that byte-level BPE writes for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(b) if b in printable else chr(0x100 + sum(x not in printable for x in range(b))) for b in range(256)]


def text_of(token_ids: Sequence[int]) -> str:
    """Returns the text of some ids; control tokens have none."""
    merged = [piece.replace("Ġ", " ").encode() for piece in MERGED[:2]] + [b"\xe4\xbd"]
    pieces = (bytes([i]) if i < 256 else merged[i - 256] for i in token_ids if i < FIRST_CONTROL)
    return b"".join(pieces).decode()


def tokenizer() -> dict[str, Any]:
    """What the tokenizer's file holds."""
    words = {text: i for i, text in enumerate([*byte_chars(), *MERGED])}
    added = [{"id": FIRST_CONTROL + n, "content": text, "special": True} for n, text in enumerate(CONTROLS)]
    added.append({"id": THINK, "content": "<think>", "special": False})
    return {
        "model": {"type": "BPE", "vocab": words, "merges": [["Ġ", "t"], ["h", "e"], ["ä", "½"]]},
        "added_tokens": added,
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
