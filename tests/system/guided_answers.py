"""How the small model does under generated schemas: `python -m tests.system.guided_answers [COUNT [FIRST]]`, 200 by
default.

Each schema is asked for with and without thinking, streamed and whole in turn, about a text that tells a value for each
of its keys. Answers that end must validate with
`jsonschema`, all of them; how many end within 1,024 tokens is told, and what a token costs beside one of a free answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
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
    streamed: bool
    ended: bool
    wrong: str
    tokens: int
    seconds: float
    text: str


async def ask(client: openai.AsyncOpenAI, seed: int, *, thinking: bool, streamed: bool) -> Guided:
    """Asks for one schema."""
    form = schema(seed)
    keys = ", ".join(form["properties"])
    text = ", ".join(f"{key} is {value}" for key, value in told(form, form, seed))
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
    return Guided(seed, thinking, streamed, ended, wrong, tokens, time.monotonic() - began, text)


def told(shape: Any, whole: Any, seed: int) -> Iterator[tuple[str, str]]:
    """Yields the keys of an object, those of objects in it too, each with a value that fits it."""
    for place, (key, inner) in enumerate(shape["properties"].items()):
        inner = _resolved(inner, whole)
        if inner.get("type") == "object":
            yield from told(inner, whole, seed + place)
        else:
            yield key, _value(inner, whole, seed + place)


def _resolved(shape: Any, whole: Any) -> Any:
    return whole["$defs"][shape["$ref"].rpartition("/")[2]] if "$ref" in shape else shape


def _value(shape: Any, whole: Any, seed: int) -> str:
    shape = _resolved(shape, whole)
    kind = shape.get("type")
    if "const" in shape or "enum" in shape:
        return str(shape.get("const", shape.get("enum", [""])[0]))
    if "anyOf" in shape:
        return _value(shape["anyOf"][0], whole, seed)
    if kind == "array":
        parts = shape.get("prefixItems") or [shape["items"]]
        return " and ".join(_value(part, whole, seed + place) for place, part in enumerate(parts))
    if kind == "object":
        return " with ".join(f"{key} {value}" for key, value in told(shape, whole, seed))
    if kind == "integer":
        return str(max(shape.get("minimum", 10), 5 * (seed % 8)))
    if kind == "number":
        return "0.5"
    if kind == "boolean":
        return "true"
    return _STRINGS.get(shape.get("format", shape.get("pattern", "")), WORDS[seed % len(WORDS)])


_STRINGS = {
    "date": "2024-05-17",
    "uuid": "1b4e28ba-2fa1-41d2-883f-0016d3cca427",
    "ipv4": "10.0.0.7",
    "time": "10:30:00Z",
    "email": "anna@example.com",
    "^[A-Z][a-z]+$": "Anna",
    "^\\d{3}-\\d{4}$": "555-0123",
}


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


async def main(count: int, first: int) -> int:
    """Prints the figures. Returns 1 where an answer ended and does not validate, or too few ended."""
    with tempfile.TemporaryDirectory() as cache:
        config = stack_config(worker__engine="llamacpp", cache_dir=cache)
        async with (
            running_stack(config, model_path=TINY) as stack,
            openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=300) as client,
        ):
            answers = await run(client, range(first, first + count))
    for answer in answers:
        if answer.wrong or not answer.ended:
            print(f"seed {answer.seed} thinking {answer.thinking}: {answer.wrong or 'cut off'}: {answer.text[-150:]!r}")
    print("| thinking | asked | ended | valid | tokens | ms a token |\n|---|---|---|---|---|---|")
    for thinking in (False, True):
        for streamed in (False, True):
            group = [answer for answer in answers if (answer.thinking, answer.streamed) == (thinking, streamed)]
            tokens, seconds = sum(each.tokens for each in group), sum(each.seconds for each in group)
            print(
                f"| {'on' if thinking else 'off'}, {'streamed' if streamed else 'whole'} | {len(group)} "
                f"| {sum(each.ended for each in group)} | {sum(each.ended and not each.wrong for each in group)} "
                f"| {tokens} | {1000 * seconds / max(1, tokens):.2f} |"
            )
    ended = sum(answer.ended for answer in answers)
    return int(any(answer.wrong for answer in answers) or ended < 0.95 * len(answers))


if __name__ == "__main__":
    asked = [int(argument) for argument in sys.argv[1:]]
    sys.exit(asyncio.run(main(*asked, *(200, 0)[len(asked) :])))
