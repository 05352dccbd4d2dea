"""A `tokenizers` tokenizer, rebuilt from the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

# Kinds of tokens, as GGUF numbers them.
_NORMAL = 1
_CONTROL = 3
_USER_DEFINED = 4
_UNUSED = 5

# How Qwen2 and Qwen3 cut a text into words: contractions, letters with one sign before them, single digits,
# punctuation with its line ends, line ends, white space.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
_WORDS = {"qwen2": _QWEN2_WORDS, "deepseek-r1-qwen": _QWEN2_WORDS}


class UnknownVocabulary(ValueError):
    """The file's vocabulary is of a kind that cannot be rebuilt."""


def tokenizer_from(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file describes. Raises `UnknownVocabulary`."""
    kind, words = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or words not in _WORDS:
        raise UnknownVocabulary(f"vocabulary {kind!r} with pre-tokenizer {words!r} is not supported")
    tokens: list[str] = metadata.get("tokenizer.ggml.tokens", [])
    kinds: list[int] = metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    merges: list[str] = metadata.get("tokenizer.ggml.merges", [])
    if not tokens or not merges or len(tokens) != len(kinds):
        raise UnknownVocabulary("the vocabulary has no tokens, merges or token types")
    # Unused entries pad the embedding matrix. Added tokens are in the vocabulary too, so that they keep their ids.
    vocabulary = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != _UNUSED}
    pairs = [_pair(merge) for merge in merges]
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    except Exception as error:  # the library raises bare Exception, for a merge without its token among others
        raise UnknownVocabulary(f"the vocabulary cannot be rebuilt ({error})") from error
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS[words]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for special, wanted in ((True, _CONTROL), (False, _USER_DEFINED)):
        added = [
            AddedToken(token, normalized=False, special=special)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == wanted
        ]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right
