"""A socket of vLLM's core, read with fewer steps than pyzmq's own class takes for it.

For each message that one asks the socket's state five times, in enumerations, and looks after lists of futures and
timeouts. vLLM's task waits for one message at a time, without a limit: one future, and one look when the file behind
the socket becomes readable, are all that takes. The rest, the end above all, stays pyzmq's.
"""

from __future__ import annotations

import asyncio
from typing import Any

import zmq
import zmq.asyncio

_EVENTS, _POLLIN, _DONTWAIT = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.DONTWAIT)
# What is built on, of pyzmq 25 to 27: `_get_loop` has `_handle_events` called when the file is readable, and `close`
# takes that back; `_shadow_sock` is the same socket, read without an event loop.
_USED = ("_get_loop", "_handle_events", "_clear_io_state", "_shadow_sock")


class StepSocket(zmq.asyncio.Socket):
    """Only `recv_multipart`, and one call of it at a time."""

    # pyzmq lets an instance have what its class has.
    _asked: asyncio.Future[Any] | None = None

    def recv_multipart(self, flags: int = 0, copy: bool = True, track: bool = False) -> asyncio.Future[Any]:
        """Returns the next message's frames, sooner or later."""
        asked: asyncio.Future[Any] = self._get_loop().create_future()
        self._asked = asked
        self._handle_events()
        return asked

    def _handle_events(self, fd: int = 0, events: int = 0) -> None:
        """Hands over a message that is there and asked for."""
        socket, asked = self._shadow_sock, self._asked
        # Asking for the state is what makes the file unreadable until something changes.
        if socket.closed or not socket.get(_EVENTS) & _POLLIN or asked is None:
            return
        self._asked = None
        if not asked.done():
            asked.set_result(socket.recv_multipart(_DONTWAIT, False))


def read_with_fewer_steps(socket: Any) -> None:
    """Makes a socket that nobody has read from yet a `StepSocket`, where it is of the class that this one knows."""
    if type(socket) is zmq.asyncio.Socket and all(hasattr(socket, name) for name in _USED):
        socket.__class__ = StepSocket
