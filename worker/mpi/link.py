"""The link between rank 0 and the others: messages both ways, and heartbeats that tell a rank that is lost.

A rank whose connection ends is lost at once. One that says nothing is silent after `silent_s`, and lost after `lost_s`.
Time is counted in looks, not on a clock: where this process itself stood still, the others are not to blame. Messages
are JSON objects behind their length in bytes; a heartbeat is an empty one. Everything waits in threads: MPI and
collective operations block, and none of this may.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import queue
import select
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Message = Mapping[str, Any]

_LENGTH = struct.Struct("!I")
_HEARTBEAT = _LENGTH.pack(0)
_HELLO = struct.Struct("!32sI")
_LOOK_S = 0.25
_CONNECT_S = 30.0
_FAREWELL_S = 3.0


class RankLost(Exception):
    """A rank is gone. The text says which and how."""


class Patience(NamedTuple):
    """How long a rank may say nothing: until it counts as silent, and until it counts as lost."""

    silent_s: float = 3.0
    lost_s: float = 8.0


class _Peer:
    """The other end of a connection."""

    def __init__(self, connection: socket.socket, rank: int, patience: Patience) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(patience.lost_s)
        self.connection = connection
        self.rank = rank
        self.quiet_s = 0.0
        self._writing = threading.Lock()
        self._read = bytearray()

    def send(self, message: Message) -> OSError | None:
        """Sends a message; returns what kept it from being sent."""
        payload = json.dumps(message, separators=(",", ":")).encode()
        try:
            with self._writing:
                self.connection.sendall(_LENGTH.pack(len(payload)) + payload)
        except OSError as error:
            return error
        return None

    def beat(self) -> None:
        """Says that this process lives, unless it is saying something else, or there is no room. Raises OSError."""
        if self._writing.acquire(blocking=False):
            try:
                if select.select((), (self.connection,), (), 0)[1]:
                    self.connection.sendall(_HEARTBEAT)
            finally:
                self._writing.release()

    def receive(self) -> list[Message] | None:
        """Returns the messages that are here, once there is something to read; None at the end."""
        try:
            data = self.connection.recv(1 << 16)
        except OSError:
            return None
        if not data:
            return None
        self.quiet_s = 0.0
        self._read += data
        messages = []
        while len(self._read) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._read)
            end = _LENGTH.size + length
            if len(self._read) < end:
                break
            if length:
                messages.append(json.loads(self._read[_LENGTH.size : end]))
            del self._read[:end]
        return messages


class Hub:
    """Rank 0's side. `on_silent(rank, silent)` and `on_lost(reason)`, which comes once, are called in a thread."""

    def __init__(self, size: int, secret: bytes, patience: Patience, host: str = "") -> None:
        self._size = size
        self._secret = secret
        self._patience = patience
        self._listener = socket.create_server((host, 0), backlog=size)
        self.port: int = self._listener.getsockname()[1]
        self._peers: dict[int, _Peer] = {}
        self._silent: set[int] = set()
        self._inboxes: dict[int, queue.Queue[Message | None]] = {rank: queue.Queue() for rank in range(1, size)}
        self._ending = threading.Event()
        self._stopped = threading.Event()
        self._complete = threading.Event()
        self.lost = ""
        self.on_silent: Callable[[int, bool], None] = lambda rank, silent: None
        self.on_lost: Callable[[str], None] = lambda reason: None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="mpi-link", daemon=True)
        self._thread.start()

    @property
    def absent(self) -> list[int]:
        """Ranks that have not connected yet."""
        return [rank for rank in range(1, self._size) if rank not in self._peers]

    def wait_for_all(self, timeout_s: float) -> None:
        """Waits for every rank's connection. Raises RankLost."""
        if not self._complete.wait(timeout_s):
            raise RankLost(f"rank {self.absent[0]} did not connect within {timeout_s:g} s")
        self._check()

    def tell(self, message: Message) -> None:
        """Sends a message to all ranks, from one thread at a time. Raises RankLost."""
        self._check()
        for peer in list(self._peers.values()):
            if (problem := peer.send(message)) is not None:
                self._lose(peer, f"takes no messages ({problem})")
        self._check()

    def replies(self) -> list[Message]:
        """Waits for one message from each rank, and returns them in the ranks' order. Raises RankLost."""
        messages = []
        for inbox in self._inboxes.values():
            message = inbox.get()
            if message is None:
                inbox.put(None)
                raise RankLost(self.lost or "the link is closed")
            messages.append(message)
        return messages

    def close(self, *, farewell: bool) -> None:
        """Ends the link; with `farewell` the ranks are told, and waited for for a moment. Safe to call twice."""
        self._ending.set()
        if farewell and not self.lost:
            for peer in list(self._peers.values()):
                peer.send({"end": True})
            self._thread.join(_FAREWELL_S)  # which it does once all have gone
        self._stopped.set()
        self._thread.join(_FAREWELL_S)
        for inbox in self._inboxes.values():
            inbox.put(None)

    def _check(self) -> None:
        if self.lost:
            raise RankLost(self.lost)

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._selector.close()
            self._listener.close()
            for peer in self._peers.values():
                peer.connection.close()

    def _serve(self) -> None:
        last = time.monotonic()
        while not (self._stopped.is_set() or (self._ending.is_set() and not self._peers)):
            ready = self._selector.select(_LOOK_S)
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.data)
            if time.monotonic() - last >= _LOOK_S:
                last = time.monotonic()
                self._look()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(_LOOK_S)
        try:
            secret, rank = _HELLO.unpack(connection.recv(_HELLO.size, socket.MSG_WAITALL))
        except (OSError, struct.error):
            connection.close()
            return
        if not hmac.compare_digest(secret, self._secret) or rank not in self.absent:
            connection.close()
            return
        peer = _Peer(connection, rank, self._patience)
        self._peers[rank] = peer
        self._selector.register(connection, selectors.EVENT_READ, peer)
        if not self.absent:
            self._complete.set()

    def _read(self, peer: _Peer) -> None:
        messages = peer.receive()
        if messages is None:
            self._selector.unregister(peer.connection)
            if self._ending.is_set():
                peer.connection.close()
                del self._peers[peer.rank]
            else:
                self._lose(peer, "has ended")
            return
        for message in messages:
            if "failed" in message:
                self._lose(peer, f"failed: {message['failed']}")
            self._inboxes[peer.rank].put(message)

    def _look(self) -> None:
        for peer in list(self._peers.values()):
            peer.quiet_s += _LOOK_S
            with contextlib.suppress(OSError):  # reading will tell
                peer.beat()
            silent = peer.quiet_s > self._patience.silent_s
            if silent != (peer.rank in self._silent):
                (self._silent.add if silent else self._silent.discard)(peer.rank)
                self.on_silent(peer.rank, silent)
            if peer.quiet_s > self._patience.lost_s and not self._ending.is_set():
                self._lose(peer, f"has said nothing for {self._patience.lost_s:g} s")

    def _lose(self, peer: _Peer, how: str) -> None:
        if self.lost:
            return
        self.lost = f"rank {peer.rank} {how}"
        self._complete.set()
        for inbox in self._inboxes.values():
            inbox.put(None)
        self.on_lost(self.lost)


class Spoke:
    """The side of every other rank. `on_lost(reason)` is called in a thread when rank 0 is gone."""

    def __init__(self, address: tuple[str, int], rank: int, secret: bytes, patience: Patience) -> None:
        connection = socket.create_connection(address, _CONNECT_S)
        connection.sendall(_HELLO.pack(secret, rank))
        self._peer = _Peer(connection, 0, patience)
        self._patience = patience
        self._inbox: queue.Queue[Message | None] = queue.Queue()
        self._ended = False
        self.on_lost: Callable[[str], None] = lambda reason: None
        self._thread = threading.Thread(target=self._run, name="mpi-link", daemon=True)
        self._thread.start()

    def listen(self) -> Message | None:
        """Waits for rank 0's next message; None at the end."""
        message = self._inbox.get()
        return None if message is None or "end" in message else message

    def answer(self, message: Message) -> None:
        """Sends a message to rank 0. A link that is gone is told by `on_lost`."""
        self._peer.send(message)

    def close(self) -> None:
        """Ends the link. Safe to call twice."""
        self._ended = True
        with contextlib.suppress(OSError):
            self._peer.connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(_FAREWELL_S)

    def _run(self) -> None:
        with self._peer.connection:
            self._serve()

    def _serve(self) -> None:
        peer = self._peer
        last = time.monotonic()
        while not self._ended:
            readable: Sequence[Any] = select.select((peer.connection,), (), (), _LOOK_S)[0]
            messages = peer.receive() if readable else []
            if messages is None:
                self._lose("rank 0 has ended")
                break
            for message in messages:
                self._ended = self._ended or "end" in message
                self._inbox.put(message)
            if time.monotonic() - last >= _LOOK_S:
                last = time.monotonic()
                peer.quiet_s += _LOOK_S
                with contextlib.suppress(OSError):
                    peer.beat()
            if peer.quiet_s > self._patience.lost_s:
                self._lose(f"rank 0 has said nothing for {self._patience.lost_s:g} s")
                break

    def _lose(self, reason: str) -> None:
        self._inbox.put(None)
        if not self._ended:
            self.on_lost(reason)
