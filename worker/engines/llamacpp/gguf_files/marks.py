"""What our own GGUF files say about themselves, and what an engine needs to know of a model before it loads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gguf import GGUFValueType, TokenType

from qwenserve.worker.engines.llamacpp.gguf_files.layout import Header, pack_array, pack_value, read_header

# Part of every cache key: raised whenever the same source would give a different file.
FORMAT = 1
_FORMAT_KEY = "qwenserve.format"
_REPLACED_KEY = "qwenserve.replaced_token_ids"
_ENDS_KEY = "qwenserve.end_token_ids"
_END_TEXTS = ("<|im_end|>", "<|endoftext|>")


class ModelFacts(NamedTuple):
    """A GGUF model before it is loaded. `context_length` is the length it was trained for.

    `replaced_token_ids` are the tokens whose text was made safe (see `vocabulary`), and `prepared` says that
    this was done at all. `kv_elements_per_token` are the numbers that the KV cache keeps for a token.
    """

    name: str
    architecture: str
    context_length: int
    vocab_size: int
    end_token_ids: tuple[int, ...]
    replaced_token_ids: tuple[int, ...]
    prepared: bool
    kv_elements_per_token: int


def packed(replaced: Sequence[int], ends: Sequence[int]) -> dict[str, bytes]:
    """Returns the header values that mark a file as prepared."""
    return {
        _FORMAT_KEY: pack_value(GGUFValueType.UINT32, FORMAT),
        _REPLACED_KEY: pack_array(GGUFValueType.UINT32, replaced),
        _ENDS_KEY: pack_array(GGUFValueType.UINT32, ends),
    }


def is_prepared(header: Header) -> bool:
    return header.integer(_FORMAT_KEY) == FORMAT


def read_facts(path: Path) -> ModelFacts:
    """Reads a GGUF file's header. Raises EngineError where it is no GGUF file."""
    header = read_header(path)
    arch = header.text("general.architecture")
    texts = header.texts("tokenizer.ggml.tokens")
    return ModelFacts(
        name=header.text("general.name") or path.stem,
        architecture=arch,
        context_length=header.integer(f"{arch}.context_length"),
        vocab_size=len(texts),
        end_token_ids=tuple(header.integers(_ENDS_KEY) or find_ends(header, texts)),
        replaced_token_ids=tuple(header.integers(_REPLACED_KEY)),
        prepared=is_prepared(header),
        kv_elements_per_token=_kv_elements(header, arch),
    )


def tokenizer_of(path: Path) -> dict[str, Any] | None:
    """Returns the vocabulary of a GGUF file in the form of a tokenizer.json; None where the texts are not the model's
    own, because the file has been prepared. Raises EngineError where it is no GGUF file.
    """
    header = read_header(path)
    texts = header.texts("tokenizer.ggml.tokens")
    kinds = header.integers("tokenizer.ggml.token_type")
    if is_prepared(header) or len(kinds) != len(texts):
        return None
    named = {int(TokenType.CONTROL), int(TokenType.USER_DEFINED)}
    return {
        "model": {
            "type": "BPE",
            "vocab": {text: i for i, text in enumerate(texts) if kinds[i] == TokenType.NORMAL},
            "merges": [merge.split(" ", 1) for merge in header.texts("tokenizer.ggml.merges")],
        },
        "added_tokens": [
            {"id": i, "content": text, "special": True} for i, text in enumerate(texts) if kinds[i] in named
        ],
    }


def _kv_elements(header: Header, arch: str) -> int:
    heads = header.integer(f"{arch}.attention.head_count", 1)
    head_dim = header.integer(f"{arch}.embedding_length") // heads
    key = header.integer(f"{arch}.attention.key_length", head_dim)
    value = header.integer(f"{arch}.attention.value_length", head_dim)
    kv_heads = header.integer(f"{arch}.attention.head_count_kv", heads)
    return header.integer(f"{arch}.block_count") * kv_heads * (key + value)


def find_ends(header: Header, texts: Sequence[str]) -> list[int]:
    """Returns the end tokens of a foreign file: the one it states, and Qwen's other one where it has it."""
    ends = (
        [header.integer("tokenizer.ggml.eos_token_id")] if header.get("tokenizer.ggml.eos_token_id") is not None else []
    )
    kinds = header.integers("tokenizer.ggml.token_type")
    if len(kinds) == len(texts):
        controls = {texts[i]: i for i, kind in enumerate(kinds) if kind == TokenType.CONTROL}
        ends += [controls[t] for t in _END_TEXTS if t in controls and controls[t] not in ends]
    return ends
