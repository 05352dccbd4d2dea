"""A long prompt must not be felt by the streams and health checks beside it."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from tests.system.processes import Deployment, deployment
from tests.system.stack import ROOT, TINY

FULL = ROOT.parent / "shared" / "qwen3-tokenizer"
STREAMS = 16
TOKENS = 150
STEP_MS = 10


class Gaps(NamedTuple):
    """Seconds: the 99th percentile between two tokens of a stream, and of a health check."""

    token: float
    health: float


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


async def stream(client: aiohttp.ClientSession, url: str, gaps: list[float]) -> None:
    body = {
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "max_tokens": TOKENS,
        "ignore_eos": True,
    }
    async with client.post(f"{url}/v1/chat/completions", json=body) as response:
        assert response.status == 200
        last = 0.0
        async for line in response.content:
            if line.startswith(b"data: {"):
                now = time.monotonic()
                if last:
                    gaps.append(now - last)
                last = now


async def check_health(client: aiohttp.ClientSession, url: str, times: list[float], done: asyncio.Event) -> None:
    while not done.is_set():
        began = time.monotonic()
        async with client.get(f"{url}/healthz") as response:
            assert response.status == 200
        times.append(time.monotonic() - began)
        try:
            await asyncio.wait_for(done.wait(), 0.005)
        except asyncio.TimeoutError:
            continue


async def measure(running: Deployment, prompts: list[bytes]) -> Gaps:
    """Runs the short chats with these long requests beside them, one after the other."""
    gaps: list[float] = []
    health: list[float] = []
    done = asyncio.Event()

    async def long_ones(client: aiohttp.ClientSession) -> None:
        for body in prompts:
            async with client.post(f"{running.url}/v1/chat/completions", data=body) as response:
                answer = await response.json()
                assert response.status == 200, answer
                assert answer["usage"]["completion_tokens"] == 2

    async with aiohttp.ClientSession() as client:
        checks = asyncio.ensure_future(check_health(client, running.url, health, done))
        await asyncio.gather(long_ones(client), *(stream(client, running.url, gaps) for _ in range(STREAMS)))
        done.set()
        await checks
    return Gaps(p99(gaps), p99(health))


def long_body(words: int, salt: int) -> bytes:
    text = f"{salt} " + " ".join(f"item {i} of the list;" for i in range(words))
    return json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 2}).encode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "window", "words", "least_tokens"),
    [
        pytest.param(TINY, 8192, 600, 5000, id="small tokenizer"),
        pytest.param(
            FULL,
            40960,
            3700,
            31000,
            id="full tokenizer",
            marks=pytest.mark.skipif(not FULL.exists(), reason="the full-size tokenizer is not in the repository"),
        ),
    ],
)
async def test_streams_and_health_checks_hardly_feel_a_long_prompt(
    model: Path, window: int, words: int, least_tokens: int
) -> None:
    settings = {
        "model__reference": model,
        "model__max_model_len": window,
        "worker__max_running": 64,
        "worker__simulated__step_ms": STEP_MS,
        "worker__simulated__prefill_tokens_per_s": 10_000_000,
    }
    async with deployment(**settings) as running:
        async with aiohttp.ClientSession() as client:
            tokenized = await client.post(f"{running.url}/tokenize", json={"prompt": long_body(words, 0).decode()})
            assert (await tokenized.json())["count"] >= least_tokens
        await measure(running, [])
        without = await measure(running, [])
        beside = await measure(running, [long_body(words, salt) for salt in (1, 2, 3)])

    assert beside.token <= 3 * without.token, (beside, without)
    assert beside.health <= 3 * max(without.health, STEP_MS / 1000), (beside, without)
    print(
        f"token gap {without.token:.4f} -> {beside.token:.4f} s, health {without.health:.4f} -> {beside.health:.4f} s"
    )
