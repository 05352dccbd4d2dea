"""A thinking budget at the transformers engine, whole stack: none, one token, some, more than the thought."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

pytest.importorskip("torch", reason="torch is not installed (qwenserve[transformers])")

from models.train_qwen3_tiny.usual import WEATHER
from qwenserve.text.assets import load_assets
from tests.system.stack import TINY, Stack, running_stack, stack_config

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOSING = " Enough thought."
# What a thought that is cut has more than its budget.
CLOSING_TOKENS = len(load_assets(TINY).tokenizer.encode(f"{CLOSING}\n</think>\n\n"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[Stack]:
    config = stack_config(worker__engine="transformers", router__thinking_closing=f"'{CLOSING}'")
    async with running_stack(config, model_path=TINY) as running:
        yield running


async def ask(stack: Stack, question: str, **fields: Any) -> tuple[dict[str, Any], int]:
    """The choice, and how many of its tokens are the thought's."""
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 400, **fields}
    async with aiohttp.ClientSession() as http, http.post(f"{stack.url}/v1/chat/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
    return answer["choices"][0], answer["usage"]["completion_tokens_details"]["reasoning_tokens"]


@pytest.mark.parametrize("tools", [False, True], ids=["", "tools"])
@pytest.mark.parametrize("budget", [0, 1, 3, 1000])
async def test_budget(stack: Stack, budget: int, tools: bool) -> None:
    question = "What's the weather like in Boston today?" if tools else "What is the capital of France?"
    choice, tokens = await ask(stack, question, thinking_budget=budget, **({"tools": [WEATHER]} if tools else {}))
    message, cut = choice["message"], budget in (1, 3)

    assert choice.get("thinking_cut", False) is cut
    assert bool(message["reasoning_content"]) is (budget > 0)
    if cut:
        assert message["reasoning_content"].strip().endswith(CLOSING.strip())
        assert budget <= tokens <= budget + CLOSING_TOKENS
    assert choice["finish_reason"] in ("stop", "tool_calls")
    assert message.get("tool_calls") or message["content"]
