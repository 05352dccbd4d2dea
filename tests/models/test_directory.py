"""The model's directory is complete, of the promised form and size, and its card tells the stored results."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from models.train_qwen3_tiny.card import section
from tests.fixtures.full_tokenizer import REPOSITORY, TINY_MODEL

MEGABYTE = 1_000_000


def _json(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((TINY_MODEL / name).read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def header() -> dict[str, Any]:
    """The tensors of the weights file, read from its head."""
    with (TINY_MODEL / "model.safetensors").open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        found: dict[str, Any] = json.loads(file.read(size))
    found.pop("__metadata__")
    return found


@pytest.fixture(scope="module")
def digest() -> str:
    return hashlib.sha256((TINY_MODEL / "model.safetensors").read_bytes()).hexdigest()


def test_weights_are_bf16_and_of_the_configured_shape(header):
    config = _json("config.json")
    head, hidden = config["head_dim"], config["hidden_size"]

    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    assert header["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], hidden]
    for layer in range(config["num_hidden_layers"]):
        attention = f"model.layers.{layer}.self_attn"
        assert header[f"{attention}.q_proj.weight"]["shape"] == [config["num_attention_heads"] * head, hidden]
        assert header[f"{attention}.k_proj.weight"]["shape"] == [config["num_key_value_heads"] * head, hidden]
        assert header[f"model.layers.{layer}.mlp.gate_proj.weight"]["shape"] == [config["intermediate_size"], hidden]
    assert len(header) == 11 * config["num_hidden_layers"] + 2


def test_sizes_stay_small(header):
    parameters = sum(math.prod(tensor["shape"]) for tensor in header.values())

    assert 4_000_000 <= parameters <= 8_000_000
    assert sum(file.stat().st_size for file in TINY_MODEL.iterdir()) <= 20 * MEGABYTE


def test_transformers_reads_the_directory():
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)

    assert AutoConfig.from_pretrained(TINY_MODEL).max_position_embeddings >= 8192
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    asked = [{"role": "user", "content": "Hi"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_generation_stops_at_both_end_tokens():
    ids = _json("tokenizer.json")["added_tokens"]
    ends = {token["id"] for token in ids if token["content"] in ("<|im_end|>", "<|endoftext|>")}

    assert set(_json("generation_config.json")["eos_token_id"]) == ends
    assert _json("config.json")["eos_token_id"] in ends


def test_the_card_tells_the_stored_results(digest):
    results = _json("results.json")

    assert results["model_sha256"] == digest
    assert section(results) in (TINY_MODEL / "README.md").read_text(encoding="utf-8")


def test_the_greedy_reference_belongs_to_the_weights(digest):
    reference = json.loads((REPOSITORY / "tests/fixtures/greedy_reference.json").read_text(encoding="utf-8"))

    assert reference["model_sha256"] == digest
    for case in reference["cases"]:
        assert len(case["output_ids"]) == len(case["logprobs"])
