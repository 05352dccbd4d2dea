"""A router that runs out of file descriptors serves those that it has, and all others once there are some again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import aiohttp
import pytest

from qwenserve.chat.v1 import chat_pb2_grpc
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.grpc_setup import make_channel
from tests.system.processes import free_port, start
from tests.system.requests import chat

pytestmark = pytest.mark.timeout(240)

FILES = 128
LIMIT_S = 120.0
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
ENDLESS = {**ASK, "max_tokens": 4000, "ignore_eos": True, "stream": True}


async def answered(client: aiohttp.ClientSession, url: str) -> bool:
    """Whether a chat is answered, over a connection of its own."""
    with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
        timeout = aiohttp.ClientTimeout(total=5)
        headers = {"Connection": "close"}
        async with client.post(f"{url}/v1/chat/completions", json=ASK, timeout=timeout, headers=headers) as reply:
            return reply.status == 200 and bool((await reply.json())["choices"])
    return False


async def until_answered(client: aiohttp.ClientSession, url: str) -> None:
    while not await answered(client, url):  # noqa: ASYNC110  # another process
        await asyncio.sleep(0.05)  # nothing tells when another process listens


@pytest.mark.long
@pytest.mark.parametrize("face", ["http", "grpc"])
async def test_a_router_without_file_descriptors_degrades_and_heals(face: str) -> None:
    """Connections that bring nothing take all of them. A stream that had begun goes on; afterwards all is as before."""
    http_port, grpc_port, worker_port = free_port(), free_port(), free_port()
    settings: dict[str, object] = {
        "http.port": http_port,
        "router.port": grpc_port,
        "router.workers": f"[127.0.0.1:{worker_port}]",
        "worker.port": worker_port,
        "worker.engine": "simulated",
        "worker.simulated.step_ms": 10,
        "log.level": "error",
    }
    url = f"http://127.0.0.1:{http_port}"
    worker = await start("worker", settings)
    router = await start("router", settings, files=FILES)
    idle: list[socket.socket] = []
    try:
        async with aiohttp.ClientSession() as client:
            await asyncio.wait_for(until_answered(client, url), LIMIT_S)
            stream = await client.post(f"{url}/v1/chat/completions", json=ENDLESS)
            await stream.content.readline()
            for _ in range(2 * FILES):
                with contextlib.suppress(OSError):
                    idle.append(socket.create_connection(("127.0.0.1", http_port if face == "http" else grpc_port), 1))
            assert len(idle) > FILES // 2
            lines = 0
            while lines < 50:
                line = await asyncio.wait_for(stream.content.readline(), LIMIT_S)
                assert line
                lines += line.startswith(b"data: ") and bool(json.loads(line[6:])["choices"])
            stream.close()
            for connection in idle:
                connection.close()

            async def healed() -> None:
                await until_answered(client, url)
                async with make_channel(f"127.0.0.1:{grpc_port}", GrpcConfig()) as channel:
                    call = chat_pb2_grpc.ChatServiceStub(channel).CreateChatCompletion
                    assert (await call(chat(max_tokens=3), wait_for_ready=True)).usage.completion_tokens == 3

            await asyncio.wait_for(healed(), LIMIT_S)
            assert router.returncode is None
    finally:
        for connection in idle:
            connection.close()
        for process in (router, worker):
            if process.returncode is None:
                process.terminate()
        for process in (router, worker):
            await asyncio.wait_for(process.wait(), LIMIT_S)
