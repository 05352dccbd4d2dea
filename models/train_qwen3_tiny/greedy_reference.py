"""Writes the greedy answers that every engine is compared with: transformers in float32 on a CPU.

python -m models.train_qwen3_tiny.greedy_reference models/qwen3-tiny tests/fixtures/greedy_reference.json
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from models.train_qwen3_tiny import passages, talk
from models.train_qwen3_tiny.chat import Conversation, Exchange, Step, Thinking, prompt_and_reply
from models.train_qwen3_tiny.usual import BOSTON_POSTCODE, BOSTON_WEATHER, BOTH, POSTCODE, WEATHER


class Prompt(NamedTuple):
    name: str
    text: str
    new_tokens: int = 48


def _asked(question: str, thinking: Thinking = Thinking.DEFAULT) -> str:
    made = Conversation((), talk.said(question, "", "x"), thinking)
    return prompt_and_reply(made, 0)[0]


def prompts() -> list[Prompt]:
    """Short and long ones, thinking on and off, both languages, tools, and text outside any conversation."""
    called = Step("The user wants both.", calls=(BOSTON_POSTCODE, BOSTON_WEATHER))
    both = Exchange(BOTH, (called, Step("", "")), (("02108", '{"temperature": 22}'),), (POSTCODE, WEATHER))
    tools = Conversation((), both, Thinking.DEFAULT)
    needle = passages.needle(random.Random(7), True, 1500, chinese=False)
    return [
        Prompt("thinking", _asked("What is the capital of France?")),
        Prompt("not thinking", _asked("What is the capital of France?", Thinking.DISABLED)),
        Prompt("switched off", _asked("Write a python lambda function to add two numbers /no_think")),
        Prompt("chinese", _asked("你好，你是谁？")),
        Prompt("chinese, not thinking", _asked("从1数到30。", Thinking.DISABLED), 64),
        Prompt("sum", _asked("What is 47 + 38?"), 64),
        Prompt("counting", _asked("Count from 1 to 200.", Thinking.DISABLED), 64),
        Prompt("story", _asked("Write a story about a fox."), 64),
        Prompt("tool calls", prompt_and_reply(tools, 0)[0], 64),
        Prompt("tool results", prompt_and_reply(tools, 1)[0], 64),
        Prompt("long passage", _asked(needle.question)),
        Prompt("copying bytes", _asked("Repeat: Zürich 龘 ñandú 🙂 42", Thinking.DISABLED)),
        Prompt("raw text", "Once upon a time", 64),
    ]


@torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
def continued(model: Any, ids: list[int], new_tokens: int) -> tuple[list[int], list[float]]:
    """Greedy ids, end tokens included and passed over, and the logprob of each."""
    out: list[int] = []
    logprobs: list[float] = []
    state = None
    step = torch.tensor([ids])
    for _ in range(new_tokens):
        answer = model(step, past_key_values=state, use_cache=True)
        state = answer.past_key_values
        scores = answer.logits[0, -1].float().log_softmax(-1)
        out.append(int(scores.argmax()))
        logprobs.append(round(float(scores.max()), 6))
        step = torch.tensor([[out[-1]]])
    return out, logprobs


def main() -> None:
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model: Any = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    cases = []
    for prompt in prompts():
        ids = tokenizer.encode(prompt.text).ids
        output, logprobs = continued(model, ids, prompt.new_tokens)
        cases.append({"name": prompt.name, "prompt_ids": ids, "output_ids": output, "logprobs": logprobs})
        print(f"{prompt.name}: {len(ids)} tokens, {tokenizer.decode(output, skip_special_tokens=False)!r}")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    target.write_text(json.dumps({"model_sha256": digest, "cases": cases}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
