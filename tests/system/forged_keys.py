"""What a request with a forged key, or of a key over its limit, costs a router, beside one that is answered:
`python -m tests.system.forged_keys`.

CPU time of the router's process for each request, 200-word prompts, one answer token, kept connections, medians of
five repetitions in turn.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
from pathlib import Path

import aiohttp
import grpc

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from qwenserve.runtime.keys import KeyRecord, digest, keys_text
from tests.system.processes import deployment

_REPEATS, _REQUESTS, _AT_A_TIME = 5, 1000, 8
_KEY, _FORGED, _USED_UP = "qs-the-right-one", "qs-a-forged-one", "qs-over-its-limit"
_PROMPT = " ".join(f"word{n}" for n in range(200))


def cpu_s(pid: int) -> float:
    """CPU time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def over_http(url: str, key: str, status: int) -> None:
    """Asks many times."""
    body = {"messages": [{"role": "user", "content": _PROMPT}], "max_tokens": 1}

    async def ask(session: aiohttp.ClientSession) -> None:
        for _ in range(_REQUESTS // _AT_A_TIME):
            async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                await reply.read()
                assert reply.status == status or key == _USED_UP  # whose first request of a minute is answered

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        await asyncio.gather(*(ask(session) for _ in range(_AT_A_TIME)))


async def over_grpc(address: str, key: str, code: grpc.StatusCode) -> None:
    """The same over gRPC, on one channel."""
    request = chat_pb2.ChatCompletionRequest(
        conversation=message_pb2.Conversation(
            messages=[message_pb2.Message(role=message_pb2.ROLE_USER, content=_PROMPT)]
        )
    )
    request.sampling.max_tokens = 1
    metadata = (("authorization", f"Bearer {key}"),)

    async def ask(chats: chat_pb2_grpc.ChatServiceStub) -> None:
        for _ in range(_REQUESTS // _AT_A_TIME):
            call = chats.CreateChatCompletion(request, metadata=metadata)
            assert await call.code() is code

    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.gather(*(ask(chat_pb2_grpc.ChatServiceStub(channel)) for _ in range(_AT_A_TIME)))


async def main() -> int:
    """Prints one line a way; returns 1 if a forged key costs more than a request."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys.yaml"
        records = [KeyRecord(name=f"k{n}", sha256=digest(f"other {n}")) for n in range(1000)]
        right = KeyRecord(name="right", sha256=digest(_KEY), rpm=10_000_000)
        file.write_text(keys_text([*records, right, KeyRecord(name="used-up", sha256=digest(_USED_UP), rpm=1)]))
        settings = {"auth__keys_file": str(file), "worker__simulated__prefill_tokens_per_s": 1e9}
        found: dict[str, list[float]] = {}
        async with deployment(**settings, worker__simulated__step_ms=0) as running:
            address = f"127.0.0.1:{running.grpc_port}"
            for _ in range(_REPEATS + 1):
                for name, work in (
                    ("HTTP, right key", lambda: over_http(running.url, _KEY, 200)),
                    ("HTTP, forged key", lambda: over_http(running.url, _FORGED, 401)),
                    ("HTTP, over limit", lambda: over_http(running.url, _USED_UP, 429)),
                    ("gRPC, right key", lambda: over_grpc(address, _KEY, grpc.StatusCode.OK)),
                    ("gRPC, forged key", lambda: over_grpc(address, _FORGED, grpc.StatusCode.UNAUTHENTICATED)),
                ):
                    before = cpu_s(running.router.pid)
                    await work()
                    found.setdefault(name, []).append(1e6 * (cpu_s(running.router.pid) - before) / _REQUESTS)
    medians = {name: statistics.median(values[1:]) for name, values in found.items()}  # the first round warms up
    for name, values in found.items():
        print(f"{name:18} {medians[name]:6.0f} µs CPU ({min(values[1:]):.0f}–{max(values[1:]):.0f})")
    return int(any(medians[f"{way}, forged key"] >= medians[f"{way}, right key"] for way in ("HTTP", "gRPC")))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
