"""A thinking budget at one engine after the other, whole deployments: where the thought ends, and what follows it.

The embedded engine is in tests/system/test_trained_model.py. What a budget asks of any engine, an answer that ends at
`max_tokens` and one that goes on at `answer_offset`, is in the engine contract.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from qwenserve.text.assets import load_assets
from qwenserve.worker.engine_choice import BuiltEngine
from qwenserve.worker.engine_interface import Engine
from qwenserve.worker.engines.sglang.engine import SglangEngine
from qwenserve.worker.engines.simulated.engine import SimulatedConfig, SimulatedEngine
from qwenserve.worker.engines.vllm.engine import VllmEngine
from tests.contract import test_engine_trtllm_double as trtllm
from tests.contract.test_engine_sglang_double import engine_over as sglang_over
from tests.contract.test_engine_vllm_double import engine_over as vllm_over
from tests.system.stack import TINY, Stack, running_stack, stack_config
from tests.worker.engines.sglang.double import SglangDouble
from tests.worker.engines.trtllm import double as trtllm_double
from tests.worker.engines.vllm.double import VllmDouble

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASSETS = load_assets(TINY)
TOKENIZER = ASSETS.tokenizer
CLOSING = " Enough thought."
THOUGHT = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen."
CALL = {"name": "weather", "arguments": {"city": "东京"}}
SAID = TOKENIZER.encode(
    f"<think>\n{THOUGHT}\n</think>\n\nI look. <tool_call>\n{json.dumps(CALL, ensure_ascii=False)}\n</tool_call>"
)
# Tokens of the thought: what is between its tags.
LENGTH = SAID.index(TOKENIZER.added_ids["</think>"]) - 1
CONFIG = SimulatedConfig(
    vocab_size=TOKENIZER.vocab_size,
    eos_token_ids=tuple(ASSETS.eos_token_ids),
    answer=tuple(SAID),
    step_s=0.0,
    max_model_len=4096,
)
ENGINES: dict[str, Callable[[], Engine]] = {
    "simulated": lambda: SimulatedEngine(CONFIG),
    "vllm": lambda: vllm_over(VllmDouble(config=CONFIG)),
    "sglang": lambda: sglang_over(SglangDouble(config=CONFIG)),
    "trtllm": trtllm.engine_over_double,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    config = stack_config(router__thinking_closing=f"'{CLOSING}'")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "trtllm":  # whose stand-in takes the place of the package
            trtllm_double.install(patch)
            for module in (trtllm, trtllm_double):
                patch.setattr(module, "CONFIG", CONFIG)
        engine = ENGINES[request.param]()
        async with running_stack(config, built=BuiltEngine(engine, "f")) as running:
            yield running


async def ask(stack: Stack, **fields: Any) -> tuple[dict[str, Any], int]:
    """The choice, and how many of its tokens are the thought's."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 400, **fields}
    async with aiohttp.ClientSession() as http, http.post(f"{stack.url}/v1/chat/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
    return answer["choices"][0], answer["usage"]["completion_tokens_details"]["reasoning_tokens"]


@pytest.mark.parametrize("tools", [False, True], ids=["", "tools"])
@pytest.mark.parametrize("budget", [0, 1, 7, LENGTH - 1, LENGTH, LENGTH + 50])
async def test_budget(stack: Stack, budget: int, tools: bool) -> None:
    choice, tokens = await ask(stack, thinking_budget=budget, **({"tools": [TOOL]} if tools else {}))
    message = choice["message"]

    cut = 0 < budget < LENGTH
    assert choice.get("thinking_cut", False) is cut
    if budget and not cut:
        assert (message["reasoning_content"], tokens) == (THOUGHT, LENGTH)
    if cut:
        thought = (TOKENIZER.decode(SAID[1 : 1 + budget]) + CLOSING).strip()
        # The closing text counts as thought, and so does the line break before the tag.
        most = budget + len(TOKENIZER.encode(f"{CLOSING}\n</think>\n\n")) - len(TOKENIZER.encode("</think>\n\n"))
        # Two of the stand-ins say their script from its beginning again, thought included.
        again = THOUGHT if isinstance(stack.workers[0].engine, (VllmEngine, SglangEngine)) else ""
        assert message["reasoning_content"].strip() == thought + again
        assert tokens == most + (LENGTH if again else 0)
    if tools:
        assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [CALL["arguments"]]
        assert choice["finish_reason"] == "tool_calls"
    else:
        assert not message.get("tool_calls")
        assert message["content"].rstrip().endswith("</tool_call>")
        assert choice["finish_reason"] == "stop"
