"""Commands that travel together: each gets its own answer, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from qwenserve.store.batches import Batches, Command

LIMIT_S = 20.0


class Server:
    """Writes down the batches it gets; answers each when told to."""

    def __init__(self) -> None:
        self.batches: list[list[Command]] = []
        self.held: list[asyncio.Future[None]] = []
        self.ended = 0

    async def send(self, commands: Sequence[Command]) -> Sequence[Any]:
        self.batches.append(list(commands))
        self.held.append(asyncio.get_running_loop().create_future())
        try:
            await self.held[-1]
        finally:
            self.ended += 1
        return [ValueError(command[1]) if command[0] == "bad" else command[1] for command in commands]

    async def until(self, batches: int) -> None:
        async def look() -> None:
            while len(self.batches) < batches:  # noqa: ASYNC110  # what is tested offers no event
                await asyncio.sleep(0)

        await asyncio.wait_for(look(), LIMIT_S)


async def test_what_comes_meanwhile_goes_together() -> None:
    """The first turn's commands at once, all of the wait's in the next batch; an error is its command's alone."""
    server = Server()
    batches = Batches(server.send)
    first = [asyncio.ensure_future(batches.ask("get", number)) for number in range(2)]
    await server.until(1)
    later = [asyncio.ensure_future(batches.ask("bad" if number == 3 else "get", number)) for number in range(2, 5)]
    await asyncio.sleep(0)
    assert server.batches == [[("get", 0), ("get", 1)]]
    server.held[0].set_result(None)
    assert await asyncio.gather(*first) == [0, 1]
    await server.until(2)
    server.held[1].set_result(None)

    assert await later[0] == 2
    with pytest.raises(ValueError, match="3"):
        await later[1]
    assert await later[2] == 4
    assert server.batches[1] == [("get", 2), ("bad", 3), ("get", 4)]


async def test_a_batch_that_everybody_has_given_up_ends() -> None:
    """It has the time of those who ask; then the next one goes."""
    server = Server()
    batches = Batches(server.send)
    asked = [asyncio.ensure_future(batches.ask("get", number)) for number in range(2)]
    await server.until(1)
    next_one = asyncio.ensure_future(batches.ask("get", 9))
    for task in asked:
        task.cancel()
    await server.until(2)

    assert server.ended == 1
    server.held[1].set_result(None)
    assert await next_one == 9


async def test_a_message_that_fails_fails_all_of_its_commands() -> None:
    """And nothing of the next one."""
    server = Server()
    batches = Batches(server.send)
    asked = [asyncio.ensure_future(batches.ask("get", number)) for number in range(2)]
    await server.until(1)
    server.held[0].set_exception(ConnectionError("gone"))

    assert [str(error) for error in await asyncio.gather(*asked, return_exceptions=True)] == ["gone", "gone"]
    again = asyncio.ensure_future(batches.ask("get", 5))
    await server.until(2)
    await batches.close()
    with pytest.raises(asyncio.CancelledError):
        await again
