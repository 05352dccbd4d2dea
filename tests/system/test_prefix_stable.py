"""Prompts whose turns extend each other, through a whole deployment."""

from __future__ import annotations

import time
from typing import Any

import pytest

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from qwenserve.runtime.config import Config
from qwenserve.text.assets import load_assets
from tests.system.requests import chat, user
from tests.system.stack import TINY, running_stack, stack_config

LIMIT_S = 30.0
THOUGHT = "It is a question about a city. " * 12
ANSWER = f"<think>\n{THOUGHT.strip()}\n</think>\n\nParis."


def thinking(**settings: Any) -> Config:
    """Workers that always think the same long thought."""
    answer = ",".join(map(str, load_assets(TINY).tokenizer.encode(ANSWER)))
    return stack_config(worker__simulated__answer=answer, **settings)


@pytest.mark.parametrize("configured", [False, True], ids=["asked for", "configured"])
async def test_explain_shows_both_ways(configured: bool) -> None:
    """The second turn's prompt as the template has it, and extending the first turn, with what a worker has cached."""
    async with running_stack(thinking(template__prefix_stable=configured), workers=2) as stack:
        stub: Any = chat_pb2_grpc.ChatServiceStub(stack.channel)
        first = await stub.CreateChatCompletion(chat("Which city?", temperature=0.0))
        said = first.choices[0].message
        assert said.content == "Paris."
        assert said.reasoning_content == THOUGHT.strip()

        async def explained(stable: bool | None) -> chat_pb2.ExplainResponse:
            conversation = message_pb2.Conversation(messages=[user("Which city?"), said, user("Sure?")])
            if stable is not None:
                conversation.prefix_stable = stable
            request = chat_pb2.ChatCompletionRequest(conversation=conversation)
            response: chat_pb2.ExplainResponse = await stub.Explain(chat_pb2.ExplainRequest(chat=request))
            return response

        default = await explained(None)
        asked = await explained(not configured)

        assert default.renderings[0].prefix_stable is configured
        assert [each.prefix_stable for each in asked.renderings] == [not configured, configured]
        assert asked.prompt == asked.renderings[0].prompt == default.renderings[1].prompt
        assert default.prompt == default.renderings[0].prompt
        exact, stable = sorted(default.renderings, key=lambda each: each.prefix_stable)
        assert THOUGHT.strip() not in exact.prompt
        assert THOUGHT.strip() in stable.prompt
        assert len(default.token_ids) == default.renderings[0].tokens

        # The engine tells what it has cached with its next step.
        reused: dict[bool, int] = {}
        before = first.usage.prompt_tokens + first.usage.completion_tokens
        deadline = time.monotonic() + LIMIT_S
        while reused.get(True, 0) <= before - 32:
            assert time.monotonic() < deadline
            await stub.CreateChatCompletion(chat("Another one", max_tokens=1))
            reused = {each.prefix_stable: each.expected_cached_tokens for each in (await explained(None)).renderings}
        assert reused[False] <= first.usage.prompt_tokens
        alone = await stub.Explain(chat_pb2.ExplainRequest(chat=chat("Which city?")))
        assert len(alone.renderings) == 1
