"""Writes the conversations that `qwenserve engine quantize` calibrates with and `qwenserve engine check` asks.

python -m models.train_qwen3_tiny.calibration worker/prepare
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import NamedTuple

from models.train_qwen3_tiny.chat import prompt_and_reply
from models.train_qwen3_tiny.mixture import conversation, plan

# What is asked is no part of what is calibrated with.
FILES = {"calibration.jsonl": (96, 1), "check.jsonl": (24, 2)}
_CHINESE = re.compile(r"[一-鿿]")
_LONGEST = 4000  # characters: calibration cuts long texts anyway


class Sample(NamedTuple):
    """A conversation up to a reply, in Qwen3's form, and the reply."""

    prompt: str
    answer: str


def samples(count: int, seed: int) -> list[Sample]:
    """Returns conversations of all skills, half of them with Chinese."""
    rng = random.Random(seed)
    chosen = plan(longest=300)
    wanted = {True: count // 2, False: count - count // 2}
    made: list[Sample] = []
    while len(made) < count:
        talked = conversation(rng, chosen)
        sample = Sample(*prompt_and_reply(talked, len(talked.newest.steps) - 1))
        text = sample.prompt + sample.answer
        chinese = len(_CHINESE.findall(text)) > len(text) / 20
        if len(text) <= _LONGEST and wanted[chinese]:
            wanted[chinese] -= 1
            made.append(sample._replace(answer=sample.answer + "<|im_end|>"))
    return made


def main() -> None:
    folder = Path(sys.argv[1])
    for name, (count, seed) in FILES.items():
        lines = [json.dumps(sample._asdict(), ensure_ascii=False) for sample in samples(count, seed)]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
