"""Routers and workers as processes, and a client that asks the routers in turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import grpc

from qwenserve.bench.meter import process_cpu_s
from qwenserve.bench.reuse.workloads import Turns
from qwenserve.bench.tier.processes import Process, free_ports, running
from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc, message_pb2
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc

_START_S = 120.0
_ANSWER_S = 300.0
_READY = '"event": "ready"'
# Of the simulated engine: what a small GPU does.
PREFILL_TOKENS_PER_S = 20_000.0
STEP_MS = 5.0


class FleetSettings(NamedTuple):
    """One deployment. `extra` are further settings of routers, such as those of kept answers."""

    model: str
    routers: int
    workers: int
    policy: str
    engine: str = "simulated"
    kv_blocks: int = 8192
    extra: Mapping[str, object] = {}

    def worker_arguments(self, port: int, number: int) -> list[str]:
        """Returns a worker's command line."""
        settings: dict[str, object] = {
            "worker.name": f"w{number}",
            "worker.port": port,
            "worker.engine": self.engine,
            "worker.max_queued": 4096,
        }
        if self.engine == "simulated":
            settings |= {
                "worker.max_running": 64,
                "worker.simulated.step_ms": STEP_MS,
                "worker.simulated.prefill_tokens_per_s": PREFILL_TOKENS_PER_S,
                "worker.simulated.kv_blocks": self.kv_blocks,
            }
        else:
            settings |= {"worker.max_running": 16}
        return self._arguments(settings)

    def router_arguments(self, workers: Sequence[str], grpc_port: int, http_port: int) -> list[str]:
        """Returns a router's command line."""
        return self._arguments(
            {
                "router.workers": list(workers),
                "router.policy": self.policy,
                "router.port": grpc_port,
                "http.port": http_port,
                **self.extra,
            }
        )

    def _arguments(self, settings: Mapping[str, object]) -> list[str]:
        given = {**settings, "model.reference": self.model, "log.level": "info", "log.format": "json"}
        pairs = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in given.items())
        return [part for key, value in pairs for part in ("--set", f"{key}={value}")]


class Answer(NamedTuple):
    """One request as the client saw it. `worker` is `cache` where no engine was asked, `cache` says why."""

    sent: float
    prompt: Sequence[int]
    answer: Sequence[int]
    text: str
    worker: str
    cache: str
    cached_tokens: int


class WorkerState(NamedTuple):
    """What one worker has done so far."""

    steps: int
    cpu_s: float


class Fleet:
    """A running deployment."""

    def __init__(
        self,
        routers: Sequence[Process],
        workers: Sequence[Process],
        channels: Sequence[grpc.aio.Channel],
        worker_channels: Sequence[grpc.aio.Channel],
        metrics_urls: Sequence[str],
    ) -> None:
        self.routers = routers
        self.workers = workers
        self._stubs = [chat_pb2_grpc.ChatServiceStub(channel) for channel in channels]
        self._worker_stubs = [worker_pb2_grpc.WorkerServiceStub(channel) for channel in worker_channels]
        self._metrics_urls = metrics_urls
        self._turn = 0

    async def block_tokens(self) -> int:
        """Returns the size of the engines' blocks; 1 where they find parts of one too."""
        info = await self._worker_stubs[0].GetWorkerInfo(worker_pb2.GetWorkerInfoRequest(), timeout=_ANSWER_S)
        return info.kv_block_tokens if info.simulated else 1

    async def states(self) -> list[WorkerState]:
        """Returns what each worker has done so far."""
        loads = [await stub.GetLoad(worker_pb2.GetLoadRequest(), timeout=_ANSWER_S) for stub in self._worker_stubs]
        cpu = [process_cpu_s(process.pid) for process in self.workers]
        return [WorkerState(load.steps, cpu_s) for load, cpu_s in zip(loads, cpu, strict=True)]

    async def counted(self, name: str) -> dict[str, float]:
        """Returns a metric's values by its only label, all routers together."""
        found: dict[str, float] = {}
        for url in self._metrics_urls:
            body = await asyncio.to_thread(_read, url)
            for label, value in re.findall(rf'^{name}{{[^"]*"([^"]*)"}} (\S+)$', body, re.MULTILINE):
                found[label] = found.get(label, 0.0) + float(value)
        return found

    async def converse(self, turns: Turns, answers: list[Answer]) -> None:
        """Holds one conversation, each turn at the next router. Raises grpc.aio.AioRpcError."""
        messages = [(message_pb2.ROLE_SYSTEM, turns.system)]
        for user in turns.users:
            messages.append((message_pb2.ROLE_USER, user))
            self._turn += 1
            answer = await _ask(self._stubs[self._turn % len(self._stubs)], messages, turns)
            answers.append(answer)
            messages.append((message_pb2.ROLE_ASSISTANT, answer.text))


async def _ask(stub: Any, messages: Sequence[tuple[Any, str]], turns: Turns) -> Answer:
    request = chat_pb2.ChatCompletionRequest(return_token_ids=True)
    for role, content in messages:
        request.conversation.messages.add(role=role, content=content)
    request.conversation.enable_thinking = False
    request.sampling.max_tokens = turns.answer_tokens
    request.sampling.ignore_eos = True
    request.sampling.temperature = 0.0 if turns.deterministic else 1.0
    sent = time.monotonic()
    start, usage = chat_pb2.StreamStart(), None
    texts: list[str] = []
    token_ids: list[int] = []
    async for event in stub.StreamChatCompletion(request, timeout=_ANSWER_S):
        token_ids += event.token_ids
        texts.append(event.content_delta)
        if event.HasField("start"):
            start = event.start
        if event.HasField("usage"):
            usage = event.usage
    prompt = list(start.prompt_token_ids[0].ids) if start.prompt_token_ids else []
    status = chat_pb2.CacheStatus.Name(start.cache).removeprefix("CACHE_STATUS_").lower()
    cached = usage.cached_tokens if usage is not None else 0
    return Answer(sent, prompt, token_ids, "".join(texts), start.worker, status, cached)


def cores() -> frozenset[int]:
    """All that this process may use: nothing is kept apart here."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_ANSWER_S) as reply:
        return str(reply.read().decode())


@contextlib.asynccontextmanager
async def fleet(settings: FleetSettings) -> AsyncIterator[Fleet]:
    """Workers and routers, ready, while the block lasts. Raises ProcessError."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(tier: str, commands: Sequence[list[str]]) -> list[Process]:
            started = [
                await stack.enter_async_context(running(f"{tier}-{number}", f"qwenserve.{tier}", arguments, cores()))
                for number, arguments in enumerate(commands)
            ]
            for process in started:
                await process.wait_for(_READY, _START_S)
            return started

        ports = free_ports(settings.workers)
        workers = await start("worker", [settings.worker_arguments(port, n) for n, port in enumerate(ports)])
        addresses = [f"127.0.0.1:{port}" for port in ports]
        grpc_ports, http_ports = free_ports(settings.routers), free_ports(settings.routers)
        routers = await start(
            "router",
            [
                settings.router_arguments(addresses, one, other)
                for one, other in zip(grpc_ports, http_ports, strict=True)
            ],
        )
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address))
            for address in (*(f"127.0.0.1:{port}" for port in grpc_ports), *addresses)
        ]
        yield Fleet(
            routers,
            workers,
            channels[: settings.routers],
            channels[settings.routers :],
            [f"http://127.0.0.1:{port}/metrics" for port in http_ports],
        )


async def offer(target: Fleet, jobs: Sequence[Turns], concurrency: int) -> list[Answer]:
    """Holds all conversations, so many at a time; returns the answers in the order in which they were asked for."""
    left = iter(jobs)
    answers: list[Answer] = []

    async def slot() -> None:
        for turns in left:
            await target.converse(turns, answers)

    slots = [asyncio.ensure_future(slot()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*slots)
    finally:
        for one in slots:
            one.cancel()
        await asyncio.gather(*slots, return_exceptions=True)
    return sorted(answers, key=lambda answer: answer.sent)
