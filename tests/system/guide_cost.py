"""What a guide costs for a token: `python -m tests.system.guide_cost`, and `… stack` for the same through everything.

Without an engine: walks at random through generated schemas in the small model's vocabulary and, where it can be had,
in that of the full-size models: every id is checked (`take`), and what may come next is asked for (`allowed`), which
the embedded engine does only where the model does not keep to the guide by itself. CPU time, medians over the schemas.

With `stack`: router, worker and the embedded engine with the small model. For each schema one answer bound to it, and
one without of as many tokens to the same question, in turn; from the first text to the last. Client and stack share a
process, whose CPU time is told too.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import openai

from qwenserve.router.guides import checks
from qwenserve.router.guides.checks import checked
from qwenserve.worker.engine_interface import Guide, GuideKind
from qwenserve.worker.guides.matcher import GuideVocabulary, vocabulary_of
from tests.fixtures.full_tokenizer import FULL_TOKENIZER
from tests.system.generated_forms import schema
from tests.system.guided_answers import told
from tests.system.stack import TINY, running_stack, stack_config

_SCHEMAS = 60
_ASKED = 40
_MOST_TOKENS = 200
_LONGEST = 80


def walk(vocabulary: GuideVocabulary, seed: int) -> tuple[float, float, float]:
    """Returns milliseconds to compile a schema, and microseconds for each `allowed` and each `take`."""
    rng = random.Random(seed)
    prepared = checked(checks.GuideKind.JSON_SCHEMA, json.dumps(schema(seed))).text
    began = time.process_time()
    matcher = vocabulary.matcher(Guide(GuideKind.JSON_SCHEMA, prepared))
    compiled = time.process_time() - began
    asked = taken = 0.0
    count = 0
    while not matcher.complete and count < _LONGEST:
        start = time.process_time()
        choices = matcher.allowed()
        middle = time.process_time()
        token = rng.choice(list(islice(choices, 200)))
        before = time.process_time()
        matcher.take(token)
        taken += time.process_time() - before
        asked += middle - start
        count += 1
    return 1e3 * compiled, 1e6 * asked / max(1, count), 1e6 * taken / max(1, count)


class Cost(NamedTuple):
    """Of an answer: its tokens, and milliseconds and CPU milliseconds for each of them behind the first text."""

    tokens: int
    wall: float
    cpu: float


async def streamed(client: openai.AsyncOpenAI, seed: int, **fields: Any) -> Cost:
    """Asks for an answer and returns what it cost."""
    form = schema(seed)
    keys = ", ".join(form["properties"])
    text = ", ".join(f"{key} is {value}" for key, value in told(form, form, seed))
    stamps: list[tuple[float, float]] = []
    tokens = 0
    answer = await client.chat.completions.create(
        model="qwen3-tiny",
        messages=[{"role": "user", "content": f"Extract {keys} as JSON: {text}."}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        **fields,
    )
    async for chunk in answer:
        if chunk.choices and chunk.choices[0].delta.content:
            stamps.append((time.perf_counter(), time.process_time()))
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    (wall, cpu), (last_wall, last_cpu) = stamps[0], stamps[-1]
    each = 1e3 / max(1, tokens - 1)
    return Cost(tokens, each * (last_wall - wall), each * (last_cpu - cpu))


async def through_stack() -> None:
    """Prints a row for answers bound to a schema, and one for answers without."""
    costs: dict[str, list[Cost]] = {"bound to a schema": [], "free": []}
    with tempfile.TemporaryDirectory() as cache:
        config = stack_config(worker__engine="llamacpp", cache_dir=cache)
        async with (
            running_stack(config, model_path=TINY) as stack,
            openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=300) as client,
        ):
            for seed in range(_ASKED):
                form = {"type": "json_schema", "json_schema": {"name": "made", "schema": schema(seed)}}
                extra = {"enable_thinking": False}
                bound = await streamed(client, seed, max_tokens=_MOST_TOKENS, response_format=form, extra_body=extra)
                free = await streamed(client, seed, max_tokens=bound.tokens, extra_body=extra | {"ignore_eos": True})
                costs["bound to a schema"].append(bound)
                costs["free"].append(free)
    print("| answers | tokens | ms a token | CPU ms a token |\n|---|---|---|---|")
    for name, found in costs.items():
        wall, cpu = (statistics.median(column) for column in list(zip(*found, strict=True))[1:])
        print(f"| {len(found)} {name} | {sum(cost.tokens for cost in found):,} | {wall:.2f} | {cpu:.2f} |")


def main() -> None:
    """Prints a row for each vocabulary."""
    print("| ids | compile, ms | what may come next, µs | check of an id, µs |\n|---|---|---|---|")
    for directory, size, ends in ((TINY, 4096, (4070, 4072)), (FULL_TOKENIZER, 151_936, (151_643, 151_645))):
        vocabulary = vocabulary_of(Path(directory), size, ends)
        if vocabulary is None:
            print(f"| {size:,} | no tokenizer here | | |")
            continue
        walk(vocabulary, 0)
        columns = zip(*(walk(vocabulary, seed) for seed in range(_SCHEMAS)), strict=True)
        print(f"| {size:,} | " + " | ".join(f"{statistics.median(column):.1f}" for column in columns) + " |")


if __name__ == "__main__":
    if sys.argv[1:] == ["stack"]:
        asyncio.run(through_stack())
    else:
        main()
