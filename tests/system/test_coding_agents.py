"""Coding agents in their first rounds: long instructions, developer items, many flat tools, and a tool's result.

What they send is written down here as their clients put it together; the engine follows a script. A prompt is some
12,000 tokens long, most of them instructions and tools.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from qwenserve.router.chat.model import ServedModel
from qwenserve.worker.engine_choice import BuiltEngine
from tests.system.scripted_engine import ScriptedEngine
from tests.system.stack import TINY, Stack, running_stack, stack_config

pytestmark = pytest.mark.asyncio(loop_scope="module")

WINDOW = 20_000
LEAST_PROMPT = 12_000
RULES = "\n".join(
    f"{number}. Read a file before you change it, and keep its style and its tests." for number in range(340)
)
TASK = "Find out why the build fails."
COMMAND = {"command": ["bash", "-lc", "make check"], "workdir": "/srv/project"}
RESULT = "error: src/main.c:7: expected ';'"
NAMES = ("shell", "update_plan", "view_image", "read_file", "write_file", "list_dir", "grep", "glob", "fetch", "todo")


def parameters(name: str) -> dict[str, Any]:
    """Some thirty lines of schema, as agents' tools have them."""
    return {
        "type": "object",
        "properties": {
            "command": {"type": "array", "items": {"type": "string"}, "description": f"What {name} runs."},
            "workdir": {"type": "string", "description": "Where. " + "Use absolute paths only. " * 10},
            "timeout_ms": {"type": "number", "description": "Longest time, in milliseconds."},
        },
        "required": ["command"],
        "additionalProperties": False,
    }


def script(prompt: str) -> str:
    """Thinks where it may, runs the shell, and tells what it said."""
    asked = prompt.rpartition("<|im_start|>user\n")[2]
    thought = "" if "</think>" in asked.rpartition("<|im_start|>assistant")[2] else "<think>\nI look.\n</think>\n\n"
    if "<tool_response>" in asked:
        return f"{thought}A semicolon is missing in line 7."
    call = json.dumps({"name": "shell", "arguments": COMMAND})
    return f"{thought}I run the checks.\n<tool_call>\n{call}\n</tool_call>"


def with_window(folder: Path) -> Path:
    """The small model, whose configuration says a longer window."""
    for file in TINY.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    said = json.loads((TINY / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, "max_position_embeddings": WINDOW}))
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    model = with_window(tmp_path_factory.mktemp("model"))
    config = stack_config(model__reference=str(model), model__name="qwen3-tiny")
    assets = ServedModel.load(model, config).assets
    engine = ScriptedEngine(assets.tokenizer, min(assets.eos_token_ids), max_model_len=WINDOW, answer=script)
    async with running_stack(config, model_path=model, built=BuiltEngine(engine, "")) as running:
        yield running


async def test_over_responses(stack: Stack) -> None:
    """Developer items, flat tools, a hosted tool that is not here, encrypted reasoning asked for, all streamed."""
    tools: list[Any] = [
        {"type": "function", "name": name, "description": f"{name}.", "strict": False, "parameters": parameters(name)}
        for name in NAMES
    ]
    asked: dict[str, Any] = {
        "model": "qwen3-tiny",
        "instructions": RULES,
        "tools": [*tools, {"type": "web_search", "external_web_access": False}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199-agent",
        "stream": True,
    }
    items: list[Any] = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>\nRead."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment_context>\n/w"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": TASK}]},
    ]
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client:
        first = [event async for event in await client.responses.create(**asked, input=items)]
        answer = first[-1].response
        assert answer.usage.input_tokens >= LEAST_PROMPT
        assert [item.type for item in answer.output] == ["reasoning", "message", "function_call"]
        call = answer.output[-1]
        assert (call.name, json.loads(call.arguments)) == ("shell", COMMAND)
        items += [item.model_dump(exclude_none=True) for item in answer.output]
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": RESULT})
        second = [event async for event in await client.responses.create(**asked, input=items)]

    assert second[-1].type == "response.completed"
    assert second[-1].response.output_text == "A semicolon is missing in line 7."


async def test_over_messages(stack: Stack) -> None:
    """System blocks and tools with marks for a cache, thinking with a budget, a beta of the client's, streamed."""
    mark: Any = {"cache_control": {"type": "ephemeral"}}
    asked: dict[str, Any] = {
        "model": "qwen3-tiny",
        "max_tokens": 4_000,
        "system": [{"type": "text", "text": "You are an agent for code."}, {"type": "text", "text": RULES, **mark}],
        "tools": [{"name": name, "description": f"{name}.", "input_schema": parameters(name)} for name in NAMES],
        "thinking": {"type": "enabled", "budget_tokens": 2_000},
        "metadata": {"user_id": "user_1_session_2"},
    }
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": TASK, **mark}]}]
    async with anthropic.AsyncAnthropic(base_url=stack.url, api_key="none", max_retries=0) as client:
        counted = await client.messages.count_tokens(
            **{key: asked[key] for key in ("model", "system", "tools")}, messages=messages
        )
        async with client.beta.messages.stream(**asked, messages=messages, betas=["claude-code-20250219"]) as stream:
            answer = await stream.get_final_message()
        assert counted.input_tokens >= LEAST_PROMPT
        assert answer.usage.input_tokens >= LEAST_PROMPT
        assert ([block.type for block in answer.content], answer.stop_reason) == (
            ["thinking", "text", "tool_use"],
            "tool_use",
        )
        use: Any = answer.content[-1]
        assert (use.name, use.input) == ("shell", COMMAND)
        result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": RESULT}], **mark}
        messages += [
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]},
            {"role": "user", "content": [result]},
        ]
        async with client.beta.messages.stream(**asked, messages=messages, betas=["claude-code-20250219"]) as stream:
            last = await stream.get_final_message()

    assert (last.stop_reason, [block.type for block in last.content]) == ("end_turn", ["thinking", "text"])


async def test_over_chats(stack: Stack) -> None:
    """A developer message, tools, usage at the end of the stream, and a result sent back."""
    asked: dict[str, Any] = {
        "model": "qwen3-tiny",
        "tools": [
            {"type": "function", "function": {"name": name, "description": name, "parameters": parameters(name)}}
            for name in NAMES
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 2_000,
        "reasoning_effort": "low",
    }
    messages: list[Any] = [{"role": "developer", "content": RULES}, {"role": "user", "content": TASK}]
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client:
        call: Any = None
        arguments, text, tokens = "", "", 0
        async for chunk in await client.chat.completions.create(**asked, messages=messages):
            tokens = chunk.usage.prompt_tokens if chunk.usage else tokens
            for choice in chunk.choices:
                text += choice.delta.content or ""
                for part in choice.delta.tool_calls or ():
                    call = call or part
                    arguments += part.function.arguments or ""
        assert tokens >= LEAST_PROMPT
        assert (call.function.name, json.loads(arguments)) == ("shell", COMMAND)
        made = {"id": call.id, "type": "function", "function": {"name": "shell", "arguments": arguments}}
        messages += [
            {"role": "assistant", "content": text, "tool_calls": [made]},
            {"role": "tool", "tool_call_id": call.id, "content": RESULT},
        ]
        parts = [chunk async for chunk in await client.chat.completions.create(**asked, messages=messages)]

    said = "".join(choice.delta.content or "" for chunk in parts for choice in chunk.choices)
    assert said.strip() == "A semicolon is missing in line 7."
