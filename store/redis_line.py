"""One connection to Redis for the short commands that requests wait for, or that come with every request.

To send a message and to be woken by its answer costs far more than a command in it. So one message is under way at a
time: a command that comes alone is sent at the end of its turn of the event loop, and what comes meanwhile goes
together. There is no task, no timer and no connection to be waited for per command, and of the protocol only what these
commands need: through the client's own connections a command costs its caller three times the CPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from qwenserve.runtime.deadlines import HELD_UP_AGAIN, HELD_UP_S, within
from qwenserve.runtime.lifecycle import TaskOwner
from qwenserve.store.interface import NO_LIMIT, StoreRefused, StoreUnreachable
from qwenserve.store.resp import BadReply, Replies, Reply, ReplyError

# Connects a protocol, and returns what has to be said first: name and password, the number of the database. Raises
# StoreUnreachable or OSError.
Connect = Callable[[asyncio.Protocol], Awaitable[Sequence[bytes]]]

# How long the making of a connection may take, whoever waits for it.
_CONNECT_S = 1.0
# Commands that wait for their turn: each caller has one or a few, and a router's callers are bounded.
_MOST_WAITING = 8192
# Bytes of one message: what is too much for the time limit would fail all that is in it.
_MESSAGE_BYTES = 256 * 1024
# Longest reply; commands ask for less each.
_LONGEST_REPLY = 64 * 1024 * 1024
# What a server says to somebody who must log in again.
_LOGIN = ("NOAUTH", "WRONGPASS")
# What it says when it cannot be used at all, for now.
_UNREACHABLE = (*_LOGIN, "NOPERM", "LOADING", "ERR max number of clients")


class _Asked:
    """Commands of one caller: sent together, answered by one future."""

    __slots__ = ("again", "answer", "began", "count", "limit_s", "message", "sent_before")

    def __init__(self, answer: asyncio.Future[Reply], message: bytes, count: int, limit_s: float, began: float) -> None:
        self.answer = answer
        self.message = message
        self.count = count
        self.limit_s = limit_s
        # On the event loop's clock. Its time begins again where it was held up: how often that may be.
        self.began = began
        self.again = HELD_UP_AGAIN
        # On a connection that was lost.
        self.sent_before = False


# One place for each reply that is to come: a caller stands at its last one, with None before it for its others.
_Places: TypeAlias = list["_Asked | None"]


class _Wire(asyncio.Protocol):
    """One connection of a line."""

    def __init__(self, line: RedisLine) -> None:
        self._line: RedisLine | None = line
        self._replies = Replies(_LONGEST_REPLY)
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Hands replies to the line."""
        if self._line is None:
            return
        try:
            replies = self._replies.feed(data)
        except BadReply as error:
            self._line.lost(self, StoreUnreachable(f"the store does not keep to its protocol: {error}"), final=True)
        else:
            if replies:
                self._line.answered(self, replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the line."""
        if self._line is not None:
            self._line.lost(self, _unreachable(exc or ConnectionResetError("the connection was closed")))

    def close(self) -> None:
        """Ends it; the line hears nothing more."""
        self._line = None
        if self.transport is not None:
            self.transport.abort()


class RedisLine:
    """Sends commands, each answered or failed within its limit. It connects when there is something to send."""

    def __init__(self, connect: Connect, *, primary_only: bool = False) -> None:
        """`primary_only`: a server that only reads is no longer the right one, and another is looked for."""
        self._connect = connect
        self._leave_on = (*_LOGIN, "READONLY") if primary_only else _LOGIN
        self._wire: _Wire | None = None
        # Has said what has to be said first.
        self._ready = False
        self._connecting: asyncio.Task[None] | None = None
        self._tasks = TaskOwner()
        self._waiting: _Places = []
        self._sent: _Places = []
        # Of the commands whose caller's last one is not answered yet.
        self._error: Exception | None = None
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    def ask(self, message: bytes, limit_s: float = NO_LIMIT, commands: int = 1) -> asyncio.Future[Reply]:
        """Returns the answer to come: that to the last of the commands in `message`, or the first error among them.

        It is StoreRefused or StoreUnreachable, or asyncio.TimeoutError after `limit_s`. Raises StoreUnreachable where
        too many wait already.
        """
        waiting = self._waiting
        if len(waiting) >= _MOST_WAITING:
            raise StoreUnreachable("too many commands wait for the store")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()
        if commands > 1:
            waiting += [None] * (commands - 1)
        waiting.append(_Asked(answer, message, commands, limit_s, loop.time()))
        if self._soon is None and not self._sent:
            self._soon = loop.call_soon(self._send)
        if self._timer is None and limit_s != NO_LIMIT:
            self._set_timer(loop, limit_s)
        return answer

    async def close(self) -> None:
        """Gives up what is under way."""
        await self._tasks.close()
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        for asked in (*self._sent, *self._waiting):
            if asked is not None:
                asked.answer.cancel()
        self._sent.clear()
        self._waiting.clear()
        self._hang_up()

    def answered(self, wire: _Wire, replies: Sequence[Reply]) -> None:
        """Takes replies, in the order in which their commands were sent."""
        answered, self._sent = self._sent[: len(replies)], self._sent[len(replies) :]
        leave = False
        for asked, reply in zip(answered, replies, strict=False):
            if isinstance(reply, ReplyError):
                leave = leave or str(reply).startswith(self._leave_on)
                self._error = self._error or _error_of(str(reply))
            if asked is None:
                continue
            error, self._error = self._error, None
            try:
                if error is None:
                    asked.answer.set_result(reply)
                else:
                    asked.answer.set_exception(error)
            except asyncio.InvalidStateError:
                pass  # its caller has given up
        if len(replies) > len(answered):
            self.lost(wire, StoreUnreachable("the store answers what was not asked"), final=True)
        elif leave:
            self.lost(wire, StoreUnreachable("the store wants another login, or is another one now"))
        elif self._waiting and not self._sent and self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._send)

    def lost(self, wire: _Wire, error: StoreUnreachable, *, final: bool = False) -> None:
        """Goes on without this connection. What was sent is sent once more, unless that would be in vain (`final`): the
        server may have closed it meanwhile, and to do these commands twice does no harm.
        """
        if wire is not self._wire:
            return
        self._hang_up()
        sent, self._sent, self._error = self._sent, [], None
        anew: list[_Asked] = []
        for asked in _unanswered(sent):
            if final or asked.sent_before:
                asked.answer.set_exception(error)
            else:
                asked.sent_before = True
                anew.append(asked)
        self._waiting[:0] = _places(anew)
        if self._waiting and self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._send)

    def _hang_up(self) -> None:
        wire, self._wire, self._ready = self._wire, None, False
        if wire is not None:
            wire.close()

    def _send(self) -> None:
        self._soon = None
        if self._sent or not self._waiting:
            return
        if not self._ready or self._wire is None or self._wire.transport is None:
            if self._connecting is None:
                self._connecting = self._tasks.start(self._connected(), name="store connection")
            return
        going, self._waiting = self._waiting, []
        message = _message(going)
        if len(message) > _MESSAGE_BYTES:
            going, self._waiting = _cut(_unanswered(going))
            message = _message(going)
        self._sent = going
        self._wire.transport.write(message)

    async def _connected(self) -> None:
        """Makes a connection, for whoever waits; fails them where there is none to be had."""
        wire = self._wire = _Wire(self)
        try:
            await within(_CONNECT_S, self._greeted(wire))
        except (StoreRefused, StoreUnreachable, OSError, asyncio.TimeoutError) as error:
            reason = _unreachable(error)
            self._connecting = None
            self._sent, self._error = [], None
            if wire is self._wire:
                self._hang_up()
            waiting, self._waiting = self._waiting, []
            for asked in _unanswered(waiting):
                asked.answer.set_exception(reason)
        except asyncio.CancelledError:
            wire.close()
            raise
        else:
            self._connecting = None
            self._ready = True
            self._send()

    async def _greeted(self, wire: _Wire) -> None:
        """Connects and logs in."""
        greeting = await self._connect(wire)
        transport = wire.transport
        if transport is None or wire is not self._wire:
            raise StoreUnreachable("the connection was closed")
        if not greeting:
            return
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        asked = _Asked(answer, b"".join(greeting), len(greeting), NO_LIMIT, 0.0)
        asked.sent_before = True  # a login that was cut off is not to be repeated among the commands
        self._sent = _places([asked])
        transport.write(asked.message)
        try:
            await answer
        except StoreRefused as error:
            # A wrong password, as servers before 6.2 say it, or a database that is not there.
            raise StoreUnreachable(str(error)) from None

    def _set_timer(self, loop: asyncio.AbstractEventLoop, in_s: float) -> None:
        self._timer_due = loop.time() + in_s
        self._timer = loop.call_later(in_s, self._time_passed)

    def _time_passed(self) -> None:
        """Fails what has waited too long, and leaves a connection that did not answer in time."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        held_up = now - self._timer_due > HELD_UP_S
        self._timer = None
        earliest = NO_LIMIT
        late = False
        for queue in (self._sent, self._waiting):
            for asked in _unanswered(queue):
                if held_up and asked.again and asked.began + asked.limit_s <= now:
                    # Its answer may have come long since, and only waits to be read.
                    asked.again -= 1
                    asked.began = now
                due = asked.began + asked.limit_s
                if due > now:
                    earliest = min(earliest, due)
                    continue
                asked.answer.set_exception(asyncio.TimeoutError())
                late = late or queue is self._sent
        if late and self._wire is not None and self._ready:
            self.lost(self._wire, StoreUnreachable("a command before it was not answered"), final=True)
        self._waiting = _places(_unanswered(self._waiting))
        if earliest != NO_LIMIT:
            self._set_timer(loop, earliest - now)


def _unanswered(places: _Places) -> list[_Asked]:
    """Returns the callers that still want an answer."""
    return [asked for asked in places if asked is not None and not asked.answer.done()]


def _places(callers: Sequence[_Asked]) -> _Places:
    places: _Places = []
    for asked in callers:
        places += [None] * (asked.count - 1)
        places.append(asked)
    return places


def _message(places: _Places) -> bytes:
    return b"".join([asked.message for asked in places if asked is not None])


def _cut(callers: Sequence[_Asked]) -> tuple[_Places, _Places]:
    """Returns what goes into the next message, one caller's commands at least, and the rest."""
    size = 0
    for count, asked in enumerate(callers):
        size += len(asked.message)
        if size > _MESSAGE_BYTES and count:
            return _places(callers[:count]), _places(callers[count:])
    return _places(callers), []


def _error_of(line: str) -> Exception:
    return StoreUnreachable(line[:200]) if line.startswith(_UNREACHABLE) else StoreRefused(line[:200])


def _unreachable(error: BaseException) -> StoreUnreachable:
    if isinstance(error, StoreUnreachable):
        return error
    if isinstance(error, asyncio.TimeoutError):
        return StoreUnreachable(f"no connection within {_CONNECT_S:g} s")
    return StoreUnreachable(f"{type(error).__name__}: {error}"[:200])
