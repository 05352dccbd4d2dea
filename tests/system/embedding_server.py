"""A server with `/v1/embeddings`, whose vectors are of the pairs of letters in a text."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

SIZE = 64


class EmbeddingServer:
    """What it was asked, and what it answers: a status other than 200, or a body of its own, where one is set."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.status = 200
        self.body: str | None = None

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("Authorization", ""))
        if self.body is not None or self.status != 200:
            return web.Response(status=self.status, text=self.body or "no")
        return web.json_response({"data": [{"embedding": embedding(body["input"])}]})


def embedding(text: str) -> list[float]:
    """How often each pair of letters comes, in one of 64 places each."""
    vector = [0.0] * SIZE
    for pair in zip(text.lower(), text.lower()[1:], strict=False):
        vector[(ord(pair[0]) * 31 + ord(pair[1])) % SIZE] += 1.0
    return vector


@contextlib.asynccontextmanager
async def running_embedder() -> AsyncIterator[EmbeddingServer]:
    """Runs the server inside the block."""
    server = EmbeddingServer()
    app = web.Application()
    app.router.add_post("/v1/embeddings", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/embeddings"
    try:
        yield server
    finally:
        await runner.cleanup()
