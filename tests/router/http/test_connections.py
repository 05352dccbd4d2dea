"""What happens on the wire: clients that leave, stall, speak old HTTP or none. On both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from qwenserve.router.http.shim import make_shim
from qwenserve.router.http.transport.server import HttpServer
from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import HttpConfig
from qwenserve.runtime.errors import InvalidRequest
from qwenserve.runtime.metrics import RouterMetrics
from tests.router.http.conftest import Served, serve, settled
from tests.router.http.fake_backend import FakeAnswer, FakeBackend, Script

LIMIT_S = 20.0

ASK = {"messages": [{"role": "user", "content": "hi"}]}

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a check on one of the two event loops that routers may get."""

    def run_check(check: Callable[[], Awaitable[None]]) -> None:
        loop: asyncio.AbstractEventLoop = (
            uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
        )
        try:
            loop.run_until_complete(asyncio.wait_for(check(), LIMIT_S))
        finally:
            loop.close()

    return run_check


def post(body: dict[str, Any], *, path: str = "/v1/chat/completions", version: str = "1.1", more: str = "") -> bytes:
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(payload)}\r\n{more}\r\n"
    return head.encode() + payload


@contextlib.asynccontextmanager
async def client(served: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def exchange(served: Served, data: bytes) -> bytes:
    """Sends bytes and returns everything until the server closes."""
    async with client(served) as (reader, writer):
        writer.write(data)
        return await reader.read()


def test_a_client_that_leaves_ends_its_answer(run: Run) -> None:
    async def check() -> None:
        backend = FakeBackend()
        backend.gate = asyncio.Event()
        async with serve(backend=backend) as served:
            for stream in (True, False):
                backend.waiting.clear()
                async with client(served) as (_, writer):
                    writer.write(post({**ASK, "stream": stream}))
                    await backend.waiting.wait()
                    assert len(backend.running) == 1
                await settled(lambda: not backend.running)
            counted = served.metrics.registry.get_sample_value
            labels = {"kind": "chat", "reason": ""}
            await settled(lambda: counted("qwenserve_http_requests_total", {**labels, "status": "499"}) == 2)

    run(check)


def test_a_connection_that_brings_no_request_is_closed(run: Run) -> None:
    """Silent ones, and those whose head never ends."""

    async def check() -> None:
        async with serve(keepalive_timeout_s=0.05) as served:
            for begin in (b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: "):
                async with client(served) as (reader, writer):
                    writer.write(begin)
                    assert await asyncio.wait_for(reader.read(), 30) == b""

    run(check)


def test_connections_are_bounded_and_the_next_one_is_told_to_come_back(run: Run) -> None:
    async def check() -> None:
        async with (
            serve(max_connections=2) as served,
            client(served) as (first, _),
            contextlib.AsyncExitStack() as left,
        ):
            await left.enter_async_context(client(served))
            refused = await exchange(served, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert refused.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
            assert b"retry-after: 1\r\n" in refused.lower()
            assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["code"] == "queue_full"
            await left.aclose()
            await settled(lambda: served.server.connections == 1)

            taken = await exchange(served, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert taken.startswith(b"HTTP/1.1 200 ")
            assert not first.at_eof()

    run(check)


def test_a_client_that_does_not_read_is_cut_off(run: Run) -> None:
    async def check() -> None:
        backend = FakeBackend(lambda _: Script(("much" * 2500 + " ") * 4000))
        async with serve(backend=backend, write_buffer_bytes=65536) as served, client(served) as (_, writer):
            writer.write(post({**ASK, "stream": True}))
            labels = {"kind": "chat", "status": "499", "reason": "SLOW_READER"}
            counted = served.metrics.registry.get_sample_value
            await settled(lambda: bool(backend.requests) and not backend.running)
            await settled(lambda: counted("qwenserve_http_requests_total", labels) == 1, turns=100)

    run(check)


def test_events_are_written_when_they_come(run: Run) -> None:
    async def check() -> None:
        backend = FakeBackend()
        backend.gate = asyncio.Event()
        async with serve(backend=backend) as served, client(served) as (reader, writer):
            writer.write(post({**ASK, "stream": True}))
            await backend.waiting.wait()
            seen = await reader.readuntil(b'"said: "')  # the second word; the third waits at the gate
            assert b"You " in seen
            backend.gate.set()
            await reader.readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            writer.write(post(ASK))  # the connection is still good
            assert b"200 OK" in await reader.readline()

    run(check)


def test_http_1_0_streams_end_with_the_connection(run: Run) -> None:
    async def check() -> None:
        async with serve() as served:
            more = "Connection: keep-alive\r\n"
            reply = await exchange(served, post({**ASK, "stream": True}, version="1.0", more=more))
            head, _, body = reply.partition(b"\r\n\r\n")
            assert b"chunked" not in head
            assert body.startswith(b"data: {")
            assert body.endswith(b"data: [DONE]\n\n")

    run(check)


def test_a_body_that_stalls_gets_408(run: Run) -> None:
    async def check() -> None:
        async with serve(body_timeout_s=0.05) as served:
            async with client(served) as (reader, writer):
                writer.write(post(ASK)[:-5])
                reply = await reader.readuntil(b"}}")
            assert reply.startswith(b"HTTP/1.1 408 ")
            assert b'"code": "request_timeout"' in reply

    run(check)


def test_a_body_over_the_limit_gets_413(run: Run) -> None:
    async def check() -> None:
        async with serve(max_body_bytes=1024) as served:
            big = {**ASK, "user": "x" * 2000}
            async with client(served) as (reader, writer):
                writer.write(post(big))
                assert b" 413 " in await reader.readline()
            payload = json.dumps(big).encode()
            chunked = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            async with client(served) as (reader, writer):
                writer.write(chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload))
                assert b" 413 " in await reader.readline()

    run(check)


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00", b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nA: \x00\r\n\r\n"],
)
def test_what_is_no_http_gets_400_quietly(data: bytes, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        async with serve() as served:
            assert (await exchange(served, data)).startswith(b"HTTP/1.0 400 ")

    run(check)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_draining_ends_idle_connections_and_lets_answers_end(run: Run) -> None:
    async def check() -> None:
        backend = FakeBackend()
        backend.gate = asyncio.Event()
        async with serve(backend=backend) as served, client(served) as (idle, idle_writer):
            idle_writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await idle.readuntil(b'"ok"}')
            async with client(served) as (reader, writer):
                writer.write(post({**ASK, "stream": True}))
                await backend.waiting.wait()
                await served.server.drain()
                assert await idle.read() == b""
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", served.port)
                backend.gate.set()
                assert (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")

    run(check)


def test_a_kept_connection_has_one_more_reply_once_the_port_is_closed(run: Run) -> None:
    """A request that was on its way is answered, and told that it was the last; then idle connections end."""

    async def check() -> None:
        async with serve() as served, client(served) as (late, late_writer), client(served) as (idle, idle_writer):
            for reader, writer in ((late, late_writer), (idle, idle_writer)):
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                await reader.readuntil(b'"ok"}')
            await served.server.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", served.port)

            late_writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            reply = await late.read()
            assert reply.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" in reply.lower()
            served.server.close_idle()
            assert await idle.read() == b""

    run(check)


def test_closing_ends_what_still_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenserve.router.http.transport.server._CLOSE_S", 0.05)

    async def check() -> None:
        backend = FakeBackend()
        backend.gate = asyncio.Event()
        async with serve(backend=backend) as served, client(served) as (reader, writer):
            writer.write(post({**ASK, "stream": True}))
            await backend.waiting.wait()
            await served.server.close()
            assert not backend.running
            assert b"[DONE]" not in await reader.read()

    run(check)


def test_two_servers_share_a_port(run: Run) -> None:
    async def check() -> None:
        def server(port: int, *, share_port: bool = True) -> HttpServer:
            config = HttpConfig(port=port)
            shim = make_shim(FakeBackend(), config, strict=False, keys=KeyRing(()), metrics=RouterMetrics())
            return HttpServer(shim, config, share_port=share_port)

        first = server(0)
        second = server(await first.start())
        assert first.port == await second.start() == second.port
        with pytest.raises(OSError, match="address already in use"):
            await server(first.port, share_port=False).start()
        await first.close()
        await second.close()

    run(check)


def test_small_writes_are_not_held_back(run: Run) -> None:
    async def check() -> None:
        async with serve() as served, client(served) as (reader, writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b'"ok"}')
            server = served.server._server
            assert server is not None
            transport = server.connections[0].transport
            assert transport is not None
            assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    run(check)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_silent_stream_shows_that_it_is_there(fails: bool) -> None:
    """The head leaves with the first comment; what fails after it is an error event."""
    gate = asyncio.Event()

    class Slow(FakeBackend):
        async def stream_chat(self, *given: Any) -> FakeAnswer:
            await gate.wait()
            if fails:
                raise InvalidRequest("told to fail")
            return await super().stream_chat(*given)

    async with serve(backend=Slow(), keepalive_s=0.01) as served, client(served) as (reader, writer):
        writer.write(post({**ASK, "stream": True}, more="Connection: close\r\n"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"x-request-id" in head.lower()
        for _ in range(3):
            await reader.readuntil(b": still there\n\n")
        gate.set()
        rest = await reader.read()

    events = [line for line in rest.split(b"\n") if line.startswith(b"data: ")]
    if fails:
        assert json.loads(events[-1].removeprefix(b"data: "))["error"]["message"] == "told to fail"
    else:
        assert events[-1] == b"data: [DONE]"
        assert b'"role":"assistant"' in events[0]


@pytest.mark.parametrize(
    ("path", "member"),
    [("/health", "status"), ("/ping", "status"), ("/version", "version"), ("/v1", "api"), ("/v1/models/", "data")],
)
async def test_what_other_servers_probes_ask_is_answered(path: str, member: str) -> None:
    async with serve() as served, client(served) as (reader, writer):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert json.loads(body)[member]
