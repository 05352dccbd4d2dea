"""Commands that travel together: what is asked while others are under way goes with the next message.

To send a message and to be woken by its answer costs far more than a command in it. So one batch is under way at a
time: a command that comes alone is sent at once, and many that come together share a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

# Name and arguments of a command.
Command: TypeAlias = tuple[Any, ...]

_MOST = 64


class Batches:
    """Sends commands by `send`, which returns an answer for each, errors included, or raises for all of them."""

    def __init__(self, send: Callable[[Sequence[Command]], Awaitable[Sequence[Any]]]) -> None:
        self._send = send
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None
        self._soon: asyncio.Handle | None = None

    async def ask(self, *command: Any) -> Any:
        """Returns a command's answer, or raises its error."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((command, answer))
        if self._task is None and self._soon is None:
            # At the end of this turn, so that all commands of the turn go together.
            self._soon = loop.call_soon(self._go)
        return await answer

    async def close(self) -> None:
        """Gives up what is under way."""
        if self._soon is not None:
            self._soon.cancel()
        task, self._task = self._task, None
        for _, answer in self._waiting:
            answer.cancel()
        self._waiting.clear()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _go(self) -> None:
        self._soon = None
        # Whoever asked may have given up meanwhile.
        self._waiting = [each for each in self._waiting if not each[1].done()]
        if self._task is not None or not self._waiting:
            return
        batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
        task = self._task = asyncio.ensure_future(self._carry(batch))
        left = len(batch)

        def given_up(answer: asyncio.Future[Any]) -> None:
            nonlocal left
            left -= 1
            if not left and not task.done():
                task.cancel()  # a batch has the time that those who ask have

        for _, answer in batch:
            answer.add_done_callback(given_up)

    async def _carry(self, batch: Sequence[tuple[Command, asyncio.Future[Any]]]) -> None:
        try:
            answers = await self._send([command for command, _ in batch])
        except BaseException as error:
            for _, answer in batch:
                if not answer.done():
                    if isinstance(error, Exception):
                        answer.set_exception(error)
                    else:
                        answer.cancel()
            if not isinstance(error, Exception):
                raise
        else:
            for (_, answer), given in zip(batch, answers, strict=True):
                if answer.done():
                    continue
                if isinstance(given, BaseException):
                    answer.set_exception(given)
                else:
                    answer.set_result(given)
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                if self._waiting:
                    self._go()
