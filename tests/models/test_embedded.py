"""Held-out cases answered without torch: by the embedded engine, in a process for each core."""

from __future__ import annotations

from tokenizers import Tokenizer

from models.train_qwen3_tiny import embedded
from tests.fixtures.full_tokenizer import TINY_MODEL

CAPITALS = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Spain": "Madrid", "Norway": "Oslo"}


def test_each_reply_belongs_to_its_prompt():
    """However the processes share them; progress ends with all of them."""
    tokenizer = Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
    questions = [f"What is the capital of {country}?" for country in CAPITALS]
    start = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    prompts = [tokenizer.encode(start.format(question)).ids for question in questions]
    done: list[int] = []

    replies = embedded.answer(TINY_MODEL, prompts, [30] * len(prompts), done.append)

    assert done[-1] == len(CAPITALS)
    for (country, capital), reply in zip(CAPITALS.items(), replies, strict=True):
        assert tokenizer.decode(reply, skip_special_tokens=False) == f"The capital of {country} is {capital}."
