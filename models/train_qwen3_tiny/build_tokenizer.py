"""Learns the tokenizer's merges from generated conversations and writes it into the model's folder.

python -m models.train_qwen3_tiny.build_tokenizer models/qwen3-tiny
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from models.train_qwen3_tiny import tokenizer, words
from models.train_qwen3_tiny.mixture import document, plan

DOCUMENTS = 30_000
SEED = 20


def corpus(seed: int, documents: int) -> Iterator[str]:
    """Short conversations, and every common Chinese character often enough to become one token."""
    rng = random.Random(seed)
    chosen = plan({"needle": 3, "authorship": 2, "count": 1, "story": 2}, longest=250)
    for _ in range(documents):
        for piece in document(rng, chosen):
            text = piece.text
            for marker in (*tokenizer.SPECIAL, *tokenizer.MARKERS):
                text = text.replace(marker, "\n")
            yield text
        if rng.random() < 0.25:
            yield "，".join(rng.sample(words.COMMON_CHARACTERS, 40))


def main() -> None:
    folder = Path(sys.argv[1])
    built = tokenizer.build(corpus(SEED, DOCUMENTS))
    tokenizer.save(built, folder)
    print(f"{built.get_vocab_size()} ids in {folder}")


if __name__ == "__main__":
    main()
