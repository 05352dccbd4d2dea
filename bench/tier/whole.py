"""Rows about requests as a whole: one answer token, and long prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qwenserve.bench.datasets.vocabulary import Vocabulary
from qwenserve.bench.findings import Finding
from qwenserve.bench.load import Load
from qwenserve.bench.samples import ChatMessage, Job, Sample
from qwenserve.bench.tier.burden import Burden, burden, disturbances
from qwenserve.bench.tier.context import Context, chat_endpoint, words
from qwenserve.bench.tier.stack import Stack, StackSettings, deployment
from qwenserve.bench.tier.table import Row

_LONG_TOKENS = 8000
_TURN_TOKENS = 100
_ONE_TOKEN_REQUESTS_PER_S = 400
_LONG_REQUESTS_PER_S = 8

Found = tuple[list[Row], list[Finding]]


async def request_rows(context: Context) -> Found:
    """A 200-token prompt with one answer token: whole, and as a stream of one token."""
    burdens: dict[bool, list[Burden]] = {False: [], True: []}
    count = max(200, round(_ONE_TOKEN_REQUESTS_PER_S * context.seconds))
    async with deployment(StackSettings(context.model, 0.0), context.cores) as stack:
        vocabulary = await words(stack)
        for number in range(context.repeats):
            context.say(f"request: repetition {number + 1} of {context.repeats}")
            for stream in (False, True):
                jobs = context.jobs(count, vocabulary, output=1)
                burdens[stream].append(await http_burden(stack, jobs, 16, stream=stream))
    rows = [
        Row(
            f"request.{'streamed' if stream else 'whole'}",
            f"request, 200-token prompt, 1 answer token, {'streamed' if stream else 'not streamed'}",
            "ms CPU",
            [b.ms_per_request for b in found],
            0.4,
            "16 at a time",
        )
        for stream, found in burdens.items()
    ]
    return rows, disturbances("request", [*burdens[False], *burdens[True]], context.core_count)


async def http_burden(stack: Stack, jobs: Sequence[Job], concurrency: int, *, stream: bool = True) -> Burden:
    """Asks over HTTP, so many at a time; returns what the routers' CPU had to do."""
    endpoint = chat_endpoint(stack.http_url, stream=stream)
    try:
        return await burden(endpoint, jobs, Load(concurrency=concurrency), stack.routers, stack.workers)
    finally:
        await endpoint.close()


async def long_rows(context: Context) -> Found:
    """An 8,000-token prompt: never seen, and sharing all but its last turn with an earlier one."""
    first: list[Burden] = []
    shared: list[Burden] = []
    count = max(16, round(_LONG_REQUESTS_PER_S * context.seconds))
    async with deployment(StackSettings(context.model, 0.0), context.cores) as stack:
        vocabulary = await words(stack)
        for number in range(context.repeats):
            context.say(f"long: repetition {number + 1} of {context.repeats}")
            jobs = context.jobs(count, vocabulary, prompt=_LONG_TOKENS, output=1)
            first.append(await http_burden(stack, jobs, 4))
            earlier, *later = shared_turns(count + 1, vocabulary, next(context.seeds))
            await http_burden(stack, [earlier], 1)
            shared.append(await http_burden(stack, later, 4))
    rows = [
        Row(
            "long.first", f"{_LONG_TOKENS:,}-token prompt, first time", "ms CPU", [b.ms_per_request for b in first], 8.0
        ),
        Row(
            "long.shared",
            f"{_LONG_TOKENS:,}-token prompt, all but the last turn seen before",
            "ms CPU",
            [b.ms_per_request for b in shared],
            2.0,
            f"last turn {_TURN_TOKENS} tokens",
        ),
    ]
    return rows, disturbances("long", [*first, *shared], context.core_count)


def shared_turns(count: int, vocabulary: Vocabulary, seed: int) -> list[Job]:
    """Returns chats of three messages with equal first two: 8,000 tokens in all, the last turn always another."""
    random = np.random.default_rng(seed)

    def text(tokens: int) -> str:
        return vocabulary.to_text(vocabulary.draw(tokens, random))

    before = _LONG_TOKENS - 2 * _TURN_TOKENS
    opening = (ChatMessage("user", text(before)), ChatMessage("assistant", text(_TURN_TOKENS)))
    return [(Sample(1, messages=(*opening, ChatMessage("user", text(_TURN_TOKENS)))),) for _ in range(count)]
