"""What a server's `/tokenize` tells before a run: words of one token each, and what the chat template adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from qwenserve.bench.clients.endpoint import EndpointError, Generation
from qwenserve.bench.clients.http import Target, call_json
from qwenserve.bench.datasets.vocabulary import Vocabulary, ask
from qwenserve.bench.samples import Job, Sample


async def server_model(target: Target, key: str) -> str:
    """Returns the first model that the server lists. Raises EndpointError."""
    listed = await call_json(target, "GET", "/v1/models", key=key)
    try:
        return str(listed["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise EndpointError("/v1/models lists no model; give --model") from None


async def server_vocabulary(target: Target, model: str, key: str) -> Vocabulary:
    """Returns words and ids of one token each. Raises EndpointError without `/tokenize`, ValueError as `ask`."""

    async def tokenize(text: str) -> Sequence[int]:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        answer = await call_json(target, "POST", "/tokenize", body, key=key)
        return [int(i) for i in answer["tokens"]]

    return await ask(tokenize)


async def expect_template(target: Target, jobs: Sequence[Job], generation: Generation, key: str) -> list[Job]:
    """Adds to each sample's expected prompt length what the chat template adds. Raises EndpointError."""
    sample = jobs[0][0]
    if not sample.messages or not sample.expected_prompt_tokens:
        return list(jobs)
    body: dict[str, Any] = {"model": generation.model, "messages": [message._asdict() for message in sample.messages]}
    if generation.thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": generation.thinking}
    answer = await call_json(target, "POST", "/tokenize", body, key=key)
    extra = int(answer["count"]) - sample.expected_prompt_tokens

    def longer(one: Sample) -> Sample:
        expected = one.expected_prompt_tokens
        return dataclasses.replace(one, expected_prompt_tokens=expected + extra if expected else 0)

    return [tuple(map(longer, job)) for job in jobs]
