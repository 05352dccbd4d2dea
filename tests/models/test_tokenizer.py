"""The tokenizer has the structure of the Qwen3 family."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from models.train_qwen3_tiny.tokenizer import FIRST_ADDED, MARKERS, SPECIAL, VOCABULARY
from tests.fixtures.full_tokenizer import FULL_TOKENIZER, TINY_MODEL, has_full_tokenizer

STORED: dict[str, Any] = json.loads((TINY_MODEL / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))


def test_added_tokens_follow_the_vocabulary(tokenizer):
    """All 26 stand after the learned pieces, in the family's order, each as one id."""
    assert tokenizer.get_vocab_size() == VOCABULARY
    for i, text in enumerate(SPECIAL + MARKERS):
        assert tokenizer.token_to_id(text) == FIRST_ADDED + i
        assert tokenizer.encode(f"a{text}b").ids[1] == FIRST_ADDED + i


def test_special_tokens_vanish_from_text_and_markers_stay(tokenizer):
    ids = tokenizer.encode("<|im_start|>a<think>b</think><tool_call>c<|im_end|>").ids

    assert tokenizer.decode(ids) == "a<think>b</think><tool_call>c"


def test_every_byte_has_a_token():
    assert set(ByteLevel.alphabet()) <= set(STORED["model"]["vocab"])


@pytest.mark.parametrize("text", ["Zürich 你好 🙂\n\n  x", "a\tb\r\n", "١٢٣ ﷽ \u0000\u001f", "名前は「龘」です"])
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_text_is_composed_first(tokenizer):
    """The normalizer is NFC."""
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("é").ids


def test_digits_stand_alone(tokenizer):
    assert len(tokenizer.encode("2024").ids) == 4


@pytest.mark.skipif(not has_full_tokenizer(), reason="the published tokenizer is not beside the repository")
def test_same_structure_as_published():
    published = json.loads((FULL_TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))

    assert STORED["normalizer"] == published["normalizer"]
    assert STORED["pre_tokenizer"] == published["pre_tokenizer"]
    assert STORED["decoder"]["type"] == published["decoder"]["type"]
    for mine, theirs in zip(STORED["added_tokens"], published["added_tokens"], strict=True):
        assert {**mine, "id": 0} == {**theirs, "id": 0}
