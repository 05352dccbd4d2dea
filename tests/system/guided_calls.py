"""How the small model calls tools that it was never trained on: `python -m tests.system.guided_calls [COUNT]` (150).

The questions, tools and right calls are those that training holds out, one call or two of them, with thinking and
without. Each is asked three times: with free calls, with `strict: true` functions, and with a call that must come.
A call counts where it parses, names a tool and fits its schema; an answer that is cut off, or whose call was broken,
has failed. Where calls are bound, all of them must count.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jsonschema
import openai

from models.train_qwen3_tiny.chat import Exchange
from models.train_qwen3_tiny.mixture import exchange
from tests.system.stack import TINY, running_stack, stack_config

MAX_TOKENS = 1024
MODES = ("auto, free", "auto, strict", "required")
_AT_ONCE = 4
_SEED = 2026


class Asked(NamedTuple):
    """One answer. `failed` says why it does not count; empty: it does, or it made no call."""

    mode: str
    thinking: bool
    calls: int
    failed: str
    exact: bool


def held_out(count: int) -> list[Exchange]:
    """Returns questions about tools that training never shows; every third wants two calls."""
    rng = random.Random(_SEED)
    return [exchange(rng, "two_calls" if number % 3 == 2 else "one_call", True) for number in range(count)]


def tools_of(made: Exchange, *, strict: bool) -> list[dict[str, Any]]:
    """Returns the tools of a question, as OpenAI's API has them, all strict or none."""
    tools: list[dict[str, Any]] = []
    for tool in made.tools:
        function = copy.deepcopy(dict(tool.get("function", tool)))
        function.pop("strict", None)
        if strict:
            function["strict"] = True
        tools.append({"type": "function", "function": function})
    return tools


async def ask(client: openai.AsyncOpenAI, made: Exchange, mode: str, *, thinking: bool) -> Asked:
    """Asks one question in one way."""
    tools = tools_of(made, strict=mode != MODES[0])
    fields: Any = {
        "model": "qwen3-tiny",
        "messages": [{"role": "user", "content": made.question}],
        "tools": tools,
        "tool_choice": "required" if mode == MODES[2] else "auto",
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "extra_body": {"enable_thinking": thinking},
    }
    answer = await client.chat.completions.create(**fields)
    choice = answer.choices[0]
    calls = [call for call in choice.message.tool_calls or () if call.type == "function"]
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    failed = "cut off" if choice.finish_reason == "length" else ""
    if "<tool_call>" in (choice.message.content or ""):
        failed = failed or "a broken call"
    for call in calls:
        failed = failed or why_not(call.function.name, call.function.arguments, schemas)
    wanted = [(call.name, dict(call.arguments)) for call in made.steps[0].calls]
    exact = not failed and [(call.function.name, json.loads(call.function.arguments)) for call in calls] == wanted
    return Asked(mode, thinking, len(calls), failed or ("no call" if mode == MODES[2] and not calls else ""), exact)


def why_not(name: str, arguments: str, schemas: dict[str, Any]) -> str:
    """Returns why a call is none of these tools', empty where it is."""
    if name not in schemas:
        return f"no tool is called {name}"
    try:
        jsonschema.validate(json.loads(arguments), schemas[name])
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).partition("\n")[0]
    return ""


async def run(client: openai.AsyncOpenAI, questions: Sequence[Exchange]) -> list[Asked]:
    """Asks every question in every way, a few at a time."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, made: Exchange, mode: str) -> Asked:
        async with room:
            return await ask(client, made, mode, thinking=bool(number % 2))

    return list(
        await asyncio.gather(*(one(number, made, mode) for mode in MODES for number, made in enumerate(questions)))
    )


async def main(count: int) -> int:
    """Prints the table. Returns 1 where a bound call does not count."""
    with tempfile.TemporaryDirectory() as cache:
        async with (
            running_stack(stack_config(worker__engine="llamacpp", cache_dir=cache), model_path=TINY) as stack,
            openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=300) as client,
        ):
            answers = await run(client, held_out(count))
    for answer in answers:
        if answer.failed:
            print(f"{answer.mode}, thinking {answer.thinking}: {answer.failed}")
    print("| calls | thinking | questions | with a call | failed | parse and fit | exactly right |")
    print("|---|---|---|---|---|---|---|")
    for mode in MODES:
        for thinking in (False, True):
            group = [answer for answer in answers if (answer.mode, answer.thinking) == (mode, thinking)]
            failed = sum(bool(answer.failed) for answer in group)
            called = sum(bool(answer.calls) or bool(answer.failed) for answer in group)
            fit = 100 * (called - failed) / max(1, called)
            print(
                f"| {mode} | {'on' if thinking else 'off'} | {len(group)} | {called} | {failed} | {fit:.1f} % "
                f"| {100 * sum(answer.exact for answer in group) / len(group):.1f} % |"
            )
    return int(any(answer.failed for answer in answers if answer.mode != MODES[0]))


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 150)))
