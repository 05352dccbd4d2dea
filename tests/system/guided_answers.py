"""How the small model does under generated schemas: `python -m tests.system.guided_answers [COUNT]` (200 by default).

Each schema is asked for with and without thinking, streamed and whole in turn. Answers that end must validate with
`jsonschema`, all of them; how many end within 1,024 tokens is told, and what a token costs beside one of a free answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jsonschema
import openai

from tests.system.generated_forms import WORDS, schema
from tests.system.stack import TINY, running_stack, stack_config

MAX_TOKENS = 1024
_AT_ONCE = 4


class Guided(NamedTuple):
    """One answer. `wrong` says why it does not fit its schema; empty: it does, or it did not end."""

    seed: int
    thinking: bool
    ended: bool
    wrong: str
    tokens: int
    seconds: float
    text: str


async def ask(client: openai.AsyncOpenAI, seed: int, *, thinking: bool, streamed: bool) -> Guided:
    """Asks for one schema."""
    form = schema(seed)
    keys = ", ".join(form["properties"])
    text = ", ".join(f"{key} is {WORDS[(seed + place) % len(WORDS)]}" for place, key in enumerate(form["properties"]))
    fields: Any = {
        "model": "qwen3-tiny",
        "messages": [{"role": "user", "content": f"Extract {keys} as JSON: {text}."}],
        "max_tokens": MAX_TOKENS,
        "seed": seed,
        "response_format": {"type": "json_schema", "json_schema": {"name": "made", "schema": form}},
        "extra_body": {"enable_thinking": thinking},
    }
    began = time.monotonic()
    if streamed:
        text, finish, tokens = "", "", 0
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
        async for chunk in await client.chat.completions.create(**fields):
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
    else:
        answer = await client.chat.completions.create(**fields)
        text, finish = answer.choices[0].message.content or "", answer.choices[0].finish_reason
        tokens = answer.usage.completion_tokens
    ended = finish == "stop"
    wrong = _why_not(text, form) if ended else ""
    return Guided(seed, thinking, ended, wrong, tokens, time.monotonic() - began, text)


def _why_not(text: str, form: Any) -> str:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    try:
        jsonschema.Draft202012Validator(form, format_checker=checker).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).partition("\n")[0]
    return ""


async def run(client: openai.AsyncOpenAI, seeds: Sequence[int]) -> list[Guided]:
    """Asks for every schema, with and without thinking, a few at a time."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(seed: int, thinking: bool) -> Guided:
        async with room:
            return await ask(client, seed, thinking=thinking, streamed=bool(seed % 2) != thinking)

    return list(await asyncio.gather(*(one(seed, thinking) for seed in seeds for thinking in (False, True))))


async def main(count: int) -> int:
    """Prints the figures. Returns 1 where an answer ended and does not validate, or too few ended."""
    with tempfile.TemporaryDirectory() as cache:
        config = stack_config(worker__engine="llamacpp", cache_dir=cache)
        async with (
            running_stack(config, model_path=TINY) as stack,
            openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=300) as client,
        ):
            answers = await run(client, range(count))
    for answer in answers:
        if answer.wrong or not answer.ended:
            print(f"seed {answer.seed} thinking {answer.thinking}: {answer.wrong or 'cut off'}: {answer.text[-150:]!r}")
    for thinking in (False, True):
        group = [answer for answer in answers if answer.thinking == thinking]
        tokens, seconds = sum(each.tokens for each in group), sum(each.seconds for each in group)
        print(
            f"thinking {'on' if thinking else 'off'}: {len(group)} asked, {sum(each.ended for each in group)} ended, "
            f"{sum(bool(each.wrong) for each in group)} of them wrong; {tokens} tokens, "
            f"{1000 * seconds / max(1, tokens):.2f} ms each with {_AT_ONCE} at once"
        )
    ended = sum(answer.ended for answer in answers)
    return int(any(answer.wrong for answer in answers) or ended < 0.95 * len(answers))


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)))
