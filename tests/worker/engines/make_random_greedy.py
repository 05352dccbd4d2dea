"""Makes `random_greedy.json`: greedy answers of transformers, in float32, for the random test models.

Needs torch and transformers, which the tests do not:

    python -m tests.worker.engines.make_random_greedy
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.worker.engines.model_directories import write_model

TARGET = Path(__file__).with_name("random_greedy.json")
PROMPTS = 8
NEW_TOKENS = 48
MODELS = {"dense": 0, "experts": 8}


def main() -> None:
    models = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, experts in MODELS.items():
            path = write_model(Path(directory) / name, experts=experts)
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
            model.eval()
            draw = random.Random(7)
            models[name] = [_case(model, [draw.randrange(256) for _ in range(5 + 23 * n)]) for n in range(PROMPTS)]
    TARGET.write_text(json.dumps({"models": models}, separators=(",", ":")) + "\n", encoding="utf-8")


def _case(model: Any, prompt: list[int]) -> dict[str, Any]:
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            eos_token_id=None,
            pad_token_id=0,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    ids = out.sequences[0, len(prompt) :].tolist()
    scores = [row[0].float().log_softmax(-1) for row in out.logits]
    gaps = [row.topk(2).values for row in scores]
    print(len(prompt), "smallest gap", min(float(g[0] - g[1]) for g in gaps))
    chosen = [round(row[i].item(), 5) for row, i in zip(scores, ids, strict=True)]
    return {"prompt_ids": prompt, "output_ids": ids, "logprobs": chosen}


if __name__ == "__main__":
    main()
