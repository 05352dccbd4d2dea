"""Workers killed while they answer: every face's answer is what it is without that."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import aiohttp
import grpc
import pytest

from qwenserve.chat.v1 import chat_pb2, chat_pb2_grpc
from qwenserve.router.chat.model import ServedModel
from qwenserve.router.clients.worker_session import WorkerSession
from qwenserve.router.main import Router
from qwenserve.runtime.grpc_setup import make_channel
from qwenserve.runtime.lifecycle import Shutdown
from tests.system.processes import free_port, start
from tests.system.requests import chat
from tests.system.stack import TINY, running_stack, stack_config, until

# Real processes start and stop several times.
pytestmark = pytest.mark.timeout(300)

# Under this many tokens at this pace nothing ends before the last kill; the fastest machine has to wait for it.
TOKENS = 600
STEP_MS = 10
LIMIT_S = 120.0


class Target(NamedTuple):
    """Where to ask."""

    channel: grpc.aio.Channel
    url: str
    http: aiohttp.ClientSession


class Told(NamedTuple):
    """An answer without what differs from one to the next, and how often it says that it went on."""

    answer: Any
    continued: int


class Workers:
    """Worker processes on fixed ports."""

    def __init__(self, count: int) -> None:
        self.ports = [free_port() for _ in range(count)]
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    async def start(self, index: int) -> None:
        settings = {
            "model.reference": str(TINY),
            "worker.name": f"worker-{index}",
            "worker.port": self.ports[index],
            "worker.engine": "simulated",
            "worker.simulated.step_ms": STEP_MS,
            "log.level": "error",
        }
        self._processes[index] = await start("worker", settings)

    async def kill(self, index: int) -> None:
        """Ends one as `kill -9` does."""
        process = self._processes.pop(index)
        process.kill()
        await process.wait()

    def freeze(self, index: int) -> None:
        """Stops one as a stuck kernel or a hung machine does: it lives, holds its connections, and does nothing."""
        self._processes[index].send_signal(signal.SIGSTOP)

    async def close(self) -> None:
        for index in list(self._processes):
            await self.kill(index)


@contextlib.asynccontextmanager
async def fleet(count: int, **overrides: Any) -> AsyncIterator[tuple[Workers, Router, Target]]:
    """Worker processes behind a router in this one."""
    workers = Workers(count)
    addresses = [f"127.0.0.1:{port}" for port in workers.ports]
    config = stack_config(router__workers=addresses, log__level="error", **overrides)
    router = Router(config, ServedModel.load(TINY, config))
    try:
        for index in range(count):
            await workers.start(index)
        async with router.serving(Shutdown()), contextlib.AsyncExitStack() as parts:
            await until(lambda: all(session.ready for session in router.sessions), LIMIT_S)
            channel = await parts.enter_async_context(make_channel(f"127.0.0.1:{router.grpc_port}", config.grpc))
            http = await parts.enter_async_context(aiohttp.ClientSession())
            yield workers, router, Target(channel, f"http://127.0.0.1:{router.http_port}", http)
    finally:
        await workers.close()


def greedy(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": TOKENS, "temperature": 0, **fields}


async def grpc_stream(target: Target) -> Told:
    call = chat_pb2_grpc.ChatServiceStub(target.channel).StreamChatCompletion(
        chat("One", max_tokens=TOKENS, temperature=0, return_token_ids=True)
    )
    text, ids, usage = "", [], None
    while (event := await call.read()) is not grpc.aio.EOF:
        text += event.content_delta
        text += event.reasoning_delta
        ids += event.token_ids
        usage = event.usage if event.HasField("usage") else usage
    assert usage is not None
    trailer = dict(await call.trailing_metadata()).get("x-continued", "0")
    assert int(trailer) == usage.continued_legs
    return Told((text, ids, usage.prompt_tokens, usage.completion_tokens), usage.continued_legs)


async def grpc_session(target: Target) -> Told:
    call = chat_pb2_grpc.ChatServiceStub(target.channel).ChatSession()
    request = chat("Two", max_tokens=TOKENS, temperature=0)
    await call.write(chat_pb2.ChatSessionRequest(submits=[chat_pb2.ChatSubmit(handle=1, request=request)]))
    await call.done_writing()
    text, usage = "", None
    while (message := await call.read()) is not grpc.aio.EOF:
        text += "".join(message.texts)
        for item in message.events:
            assert not item.HasField("error"), item.error
            text += item.event.content_delta + item.event.reasoning_delta
            usage = item.event.usage if item.event.HasField("usage") else usage
    assert usage is not None
    return Told((text, usage.completion_tokens), usage.continued_legs)


async def http_whole(target: Target) -> Told:
    body = greedy("Three", n=2, logprobs=True, top_logprobs=2)
    async with target.http.post(f"{target.url}/v1/chat/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
        header = response.headers.get("x-continued", "0")
    continued = answer["usage"].pop("continued_legs", 0)
    assert int(header) == continued
    answer["usage"].pop("prompt_tokens_details")
    return Told((answer["choices"], answer["usage"]), continued)


async def http_stream(target: Target) -> Told:
    body = greedy("Four", stream=True, stream_options={"include_usage": True})
    texts: list[str] = []
    continued = 0
    async with target.http.post(f"{target.url}/v1/chat/completions", json=body) as response:
        assert response.status == 200
        async for line in response.content:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                assert "error" not in chunk, chunk
                for choice in chunk["choices"]:
                    delta = choice["delta"]
                    texts += [delta.get("content") or "", delta.get("reasoning_content") or ""]
                continued = (chunk["usage"] or {}).get("continued_legs", 0)
    return Told("".join(texts), continued)


async def completion_with_echo(target: Target) -> Told:
    body = {"prompt": ["Five", "Six"], "max_tokens": TOKENS, "temperature": 0, "echo": True, "min_tokens": TOKENS}
    async with target.http.post(f"{target.url}/v1/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
    continued = answer["usage"].pop("continued_legs", 0)
    answer["usage"].pop("prompt_tokens_details")
    return Told((answer["choices"], answer["usage"]), continued)


ASKS: tuple[Callable[[Target], Awaitable[Told]], ...] = (
    grpc_stream,
    grpc_session,
    http_whole,
    http_stream,
    completion_with_echo,
)


# Of all of them together.
CHOICES = 7


async def steps(session: WorkerSession, count: int = 20) -> None:
    """Returns after so many more of a worker's messages: every request that it has got tokens by then."""
    seen = session.load.sequence
    await until(lambda: session.load.sequence > seen + count, LIMIT_S)


async def ask_all(target: Target) -> list[Told]:
    return list(await asyncio.wait_for(asyncio.gather(*(ask(target) for ask in ASKS)), LIMIT_S))


async def undisturbed() -> list[Any]:
    """What is answered where nobody is killed."""
    async with running_stack(stack_config()) as stack, aiohttp.ClientSession() as http:
        return [told.answer for told in await ask_all(Target(stack.channel, stack.url, http))]


async def test_answers_outlive_the_workers_that_began_them() -> None:
    """Of three workers one is killed, and then another one: nobody notices but for a pause."""
    expected = await undisturbed()
    async with fleet(3) as (workers, router, target):
        asked = asyncio.ensure_future(ask_all(target))
        first, second, third = router.sessions
        await until(lambda: first.active + second.active + third.active == CHOICES and first.active > 0, LIMIT_S)
        await steps(first)
        moved = first.active
        await workers.kill(0)
        await until(lambda: second.active + third.active == CHOICES, LIMIT_S)
        moved += second.active
        await workers.kill(1)
        told = await asked
        metrics = router.metrics.render()[0].decode()

    assert [each.answer for each in told] == expected
    assert sum(each.continued for each in told) == moved
    assert f"qwenserve_continued_legs_total {float(moved)}" in metrics


async def test_with_one_worker_answers_wait_for_its_restart() -> None:
    expected = await undisturbed()
    async with fleet(1) as (workers, router, target):
        asked = asyncio.ensure_future(ask_all(target))
        (session,) = router.sessions
        await until(lambda: session.active == CHOICES, LIMIT_S)
        await steps(session)
        await workers.kill(0)
        await until(lambda: not session.ready, LIMIT_S)
        assert not asked.done()
        await workers.start(0)
        told = await asked

    assert [each.answer for each in told] == expected
    assert [each.continued for each in told] == [1, 1, 2, 1, 2]


async def test_requests_that_come_while_the_only_worker_restarts_wait_for_it() -> None:
    async with fleet(1) as (workers, router, target):
        await workers.kill(0)
        await until(lambda: not router.sessions[0].ready, LIMIT_S)
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        posts = [target.http.post(f"{target.url}/v1/chat/completions", json=body) for _ in range(3)]
        asked = [asyncio.ensure_future(_status(post)) for post in posts]
        short = {"x-request-timeout": "0.05"}
        late = await _status(target.http.post(f"{target.url}/v1/chat/completions", json=body, headers=short))
        await workers.start(0)

        assert await asyncio.wait_for(asyncio.gather(*asked), LIMIT_S) == [200, 200, 200]
        assert late == 504


async def _status(posting: Any) -> int:
    async with posting as response:
        await response.read()
        return int(response.status)


async def test_answers_outlive_a_worker_that_stands_still() -> None:
    """Stopped and not dead: nothing closes a connection, and still the other worker goes on."""
    expected = await undisturbed()
    async with fleet(2, router__stall_timeout_s=1.5) as (workers, router, target):
        asked = asyncio.ensure_future(ask_all(target))
        first, second = router.sessions
        await until(lambda: first.active + second.active == CHOICES and first.active > 0, LIMIT_S)
        await steps(first)
        workers.freeze(0)
        told = await asked

    assert [each.answer for each in told] == expected
    assert sum(each.continued for each in told) >= 1


async def test_answers_move_on_where_a_worker_is_told_to_stop_at_once() -> None:
    """A drain without time: what it was answering goes on elsewhere."""
    expected = await undisturbed()
    config = stack_config(worker__simulated__step_ms=STEP_MS)
    async with running_stack(config, workers=2) as stack, aiohttp.ClientSession() as http:
        asked = asyncio.ensure_future(ask_all(Target(stack.channel, stack.url, http)))
        first, second = stack.router.sessions
        await until(lambda: first.active + second.active == CHOICES and first.active > 0, LIMIT_S)
        await steps(first)
        leaving = next(worker for worker in stack.workers if first.address.endswith(f":{worker.port}"))
        await leaving.stop()
        told = await asked

    assert [each.answer for each in told] == expected
    assert sum(each.continued for each in told) >= 1


async def test_answers_bound_to_a_form_go_on_in_the_middle_of_it() -> None:
    """After a thought that was cut, and from a worker that ends: the form is whole, and nothing is said twice."""
    config = stack_config(worker__simulated__step_ms=5)
    form = r"[b-y]{150}-[0-9]{150}"
    async with running_stack(config, workers=2) as stack, aiohttp.ClientSession() as http:
        body = {
            "messages": [{"role": "user", "content": "hi"}],
            "guided_regex": form,
            "thinking_budget": 3,
            "enable_thinking": True,
            "max_tokens": 1000,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        text, stopped = "", False
        usage: dict[str, Any] = {}
        async with http.post(f"{stack.url}/v1/chat/completions", json=body) as reply:
            assert reply.status == 200, await reply.text()
            async for line in reply.content:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    text += choice["delta"].get("content") or ""
                if len(text) > 20 and not stopped:
                    stopped = True
                    (busy,) = (worker for worker in stack.workers if worker.engine.load().running)
                    await busy.stop()
    assert re.fullmatch(form, text)
    assert usage["continued_legs"] == 1
