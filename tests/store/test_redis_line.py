"""Commands that travel together: each gets its own answer, whatever becomes of the others and of the connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from qwenserve.store.interface import StoreRefused, StoreUnreachable
from qwenserve.store.redis_line import RedisLine
from qwenserve.store.resp import command

LIMIT_S = 20.0
GREETING = command(b"HELLO")


class Server(asyncio.Protocol):
    """Listens; writes down the messages it gets, and says what it is told to."""

    def __init__(self) -> None:
        self.port = 0
        self.connections: list[asyncio.Transport] = []
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.greeted = b"+OK\r\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.connections.append(transport)

    def data_received(self, data: bytes) -> None:
        if data == GREETING:
            self.say(self.greeted)
        else:
            self.messages.put_nowait(data)

    async def message(self) -> bytes:
        return await asyncio.wait_for(self.messages.get(), LIMIT_S)

    def say(self, data: bytes) -> None:
        self.connections[-1].write(data)

    async def connect(self, protocol: asyncio.Protocol) -> Sequence[bytes]:
        await asyncio.get_running_loop().create_connection(lambda: protocol, "127.0.0.1", self.port)
        return [GREETING]


@contextlib.asynccontextmanager
async def listening(**options: bool) -> AsyncIterator[tuple[Server, RedisLine]]:
    server = Server()
    listener = await asyncio.get_running_loop().create_server(lambda: server, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    line = RedisLine(server.connect, **options)
    try:
        yield server, line
    finally:
        await line.close()
        for connection in server.connections:
            connection.abort()
        listener.close()


def get(number: int) -> bytes:
    return command(b"GET", b"%d" % number)


async def test_what_comes_meanwhile_goes_together():
    """The first turn's commands go at once, all of the wait's in the next message; an error is its command's alone."""
    async with listening() as (server, line):
        first = [line.ask(get(number)) for number in range(2)]
        assert await server.message() == get(0) + get(1)
        later = [line.ask(get(number)) for number in range(2, 4)]
        several = line.ask(get(4) + get(5) + get(6), commands=3)
        server.say(b"$1\r\n0\r\n$1\r\n1\r\n")
        assert await asyncio.gather(*first) == [b"0", b"1"]
        assert await server.message() == b"".join(map(get, range(2, 7)))
        server.say(b"-ERR no\r\n$1\r\n3\r\n+OK\r\n-OOM full\r\n+OK\r\n")
        with pytest.raises(StoreRefused, match="ERR no"):
            await later[0]
        assert await later[1] == b"3"
        with pytest.raises(StoreRefused, match="OOM"):
            await several
        assert len(server.connections) == 1


async def test_no_answer_in_time_fails_and_the_next_has_a_connection_of_its_own():
    """A late answer is nobody else's."""
    async with listening() as (server, line):
        first = line.ask(get(0))
        await server.message()
        server.say(b"$1\r\n0\r\n")
        assert await first == b"0"
        slow = line.ask(get(1), 0.05)
        assert await server.message() == get(1)
        patient = line.ask(get(2))
        with pytest.raises(asyncio.TimeoutError):
            await slow
        server.say(b"$1\r\n1\r\n")  # the old connection, which nobody listens to
        assert await server.message() == get(2)
        server.say(b"$1\r\n2\r\n")
        assert await patient == b"2"


async def test_a_connection_that_was_closed_meanwhile_costs_nothing():
    """What was sent is sent again, once: a second loss in a row is told."""
    async with listening() as (server, line):
        asked = line.ask(get(1))
        await server.message()
        server.connections[-1].abort()
        assert await server.message() == get(1)
        server.say(b"$1\r\n1\r\n")
        assert await asked == b"1"
        asked = line.ask(get(2))
        for _ in range(2):
            assert await server.message() == get(2)
            server.connections[-1].abort()
        with pytest.raises(StoreUnreachable):
            await asked


@pytest.mark.parametrize("said", [b"*0\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"$1\r\n1\r\n$1\r\n1\r\n"])
async def test_a_server_that_says_something_else_is_left(said: bytes):
    """No command gets what was not meant for it."""
    async with listening() as (server, line):
        asked = line.ask(get(1))
        await server.message()
        server.say(said)
        with contextlib.suppress(StoreUnreachable):
            assert await asked == b"1"
        asked = line.ask(get(2))
        assert await server.message() == get(2)
        server.say(b"$1\r\n2\r\n")
        assert await asked == b"2"
        assert len(server.connections) == 2


async def test_a_login_that_is_refused_is_tried_anew_by_the_next():
    """And so is one that was forgotten while connected."""
    async with listening() as (server, line):
        server.greeted = b"-WRONGPASS no\r\n"
        with pytest.raises(StoreUnreachable, match="WRONGPASS"):
            await line.ask(get(1), LIMIT_S)
        server.greeted = b"+OK\r\n"
        asked = line.ask(get(2), LIMIT_S)
        await server.message()
        server.say(b"-NOAUTH log in\r\n")
        with pytest.raises(StoreUnreachable, match="NOAUTH"):
            await asked
        asked = line.ask(get(3), LIMIT_S)
        await server.message()
        server.say(b"$1\r\n3\r\n")
        assert await asked == b"3"
        assert len(server.connections) == 3


@pytest.mark.parametrize("primary_only", [False, True])
async def test_a_primary_that_became_a_replica_is_left(primary_only: bool):
    """Where sentinels know another one; else there is only this one."""
    async with listening(primary_only=primary_only) as (server, line):
        for number in range(2):
            asked = line.ask(get(number))
            await server.message()
            server.say(b"-READONLY no\r\n")
            with pytest.raises(StoreRefused, match="READONLY"):
                await asked
        assert len(server.connections) == 1 + primary_only


async def test_nothing_listens():
    """Everything that waits is told so."""
    async with listening() as (server, line):
        server.port = 1
        asked = [line.ask(get(number)) for number in range(3)]
        for each in asked:
            with pytest.raises(StoreUnreachable):
                await asyncio.wait_for(each, LIMIT_S)


async def test_the_answer_to_what_was_given_up_is_nobody_elses():
    """Callers may go at any time."""
    async with listening() as (server, line):
        sent, kept = line.ask(get(1)), line.ask(get(2))
        await server.message()
        unsent = line.ask(get(3))
        sent.cancel()
        unsent.cancel()
        last = line.ask(get(4))
        server.say(b"$1\r\n1\r\n$1\r\n2\r\n")
        assert await kept == b"2"
        assert await server.message() == get(3) + get(4)
        server.say(b"$1\r\n3\r\n$1\r\n4\r\n")
        assert await last == b"4"


async def test_long_messages_are_cut_between_commands():
    """What is too much for the time limit would fail all that is in it."""
    async with listening() as (server, line):
        values = [command(b"SET", b"%d" % number, bytes(200_000)) for number in range(3)]
        asked = [line.ask(value) for value in values]
        for value in values:
            received = b""
            while len(received) < len(value):
                received += await server.message()
            assert received == value
            server.say(b"+OK\r\n")
        assert await asyncio.gather(*asked) == [b"OK"] * 3
