"""Fewer wake-ups by gRPC, of the event loop and of its own thread.

gRPC's poller thread tells the event loop of each event that has completed (a message sent, a message come) by a byte on
a pair of sockets. The loop's handler takes one byte, and then all events that wait; the bytes of the others wake the
loop again, once each, for nothing. And each message that the loop sends wakes the thread at once, which interrupts the
loop where they share a core. A step of 128 streams was 128 turns of the loop and 256 switches of context.

Here the handler takes all bytes at once, and a full socket refuses further ones: with bytes in it the loop is going to
wake anyway. No event is missed, since each is queued before its byte is written, and bytes are taken before the queue
is read. Where the thread is also scheduled as batch work, it runs when the loop pauses, and finds everything together.

Only for a process that has one event loop while it lives. What is left of a loop that was closed makes the handler fail
halfway, and without the bytes of the other events nothing would call it again.

All of it rests on how grpcio makes thread and pair; in a release that nobody has looked at, everything works as without
this.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from qwenserve.runtime import grpc_core

# Less than the kernel allows, which makes it the least: some six single bytes.
_SEND_BUFFER = 1
_ALL_BYTES = 4096


# gRPC's threads of this process: one, as long as it has a channel or a server.
_pollers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_one_loop = False


class _TakesAll(socket.socket):
    """The loop's end of the pair."""

    __slots__ = ()

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Reads all bytes that are there, however few were asked for."""
        return super().recv(max(bufsize, _ALL_BYTES), flags)


@contextlib.contextmanager
def one_loop() -> Iterator[None]:
    """In the block this process has one event loop and no other."""
    global _one_loop
    _one_loop = True
    try:
        yield
    finally:
        _one_loop = False


def setting_up() -> contextlib.AbstractContextManager[None]:
    """Surrounds code that may set gRPC up: `few_wakeups` where there is one loop."""
    return few_wakeups() if _one_loop and grpc_core.LOOKED_AT else contextlib.nullcontext()


@contextlib.contextmanager
def few_wakeups() -> Iterator[None]:
    """What gRPC sets up in the block wakes as seldom as it may. The first channel or server of a process sets up what
    all of them share. The block must not wait, and nobody else may start threads or make pairs of sockets meanwhile.
    """
    original = socket.socketpair
    before = frozenset(threading.enumerate())

    def pair(*args: Any, **kwargs: Any) -> tuple[socket.socket, socket.socket]:
        loop_end, thread_end = original(*args, **kwargs)
        loop_end.__class__ = _TakesAll
        thread_end.setblocking(False)
        thread_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        return loop_end, thread_end

    socket.socketpair = pair
    try:
        yield
    finally:
        socket.socketpair = original
    _pollers.update(thread for thread in threading.enumerate() if thread not in before)


def poll_as_batch() -> None:
    """From now on gRPC's thread interrupts no other thread: for processes that do little besides sending messages.

    The price: on cores that are busy with other programs it waits for its turn like them, some milliseconds, where it
    would have come first. A worker beside its engine would feel that in every message.
    """
    for thread in _pollers:
        if sys.platform == "linux" and thread.native_id is not None:
            with contextlib.suppress(OSError):  # a sandbox may forbid it
                os.sched_setscheduler(thread.native_id, os.SCHED_BATCH, os.sched_param(0))
