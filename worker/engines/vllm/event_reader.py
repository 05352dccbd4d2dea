"""Reads the socket on which vLLM's core tells what its prefix cache holds.

The core sends with each step; who asks wants to know some times a second. So messages wait in the socket until then: a
task that read each of them was a fifth of the worker's work.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qwenserve.worker.engine_interface import KvEvent
from qwenserve.worker.engines.vllm.block_events import BlockEvents

_log = logging.getLogger(__name__)

# Messages that wait in the socket; of those that find it full the next one's number tells. An engine makes a thousand
# steps a second at the most, and is asked ten times.
_MAX_MESSAGES = 10_000
# Blocks that are read at once, about: ten milliseconds' work, which keeps everybody waiting.
_MAX_BLOCKS = 4096


class EventReader:
    """One engine's events. The socket is a file that only this user can reach: no port is opened."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="qwenserve-"))
        self._events = BlockEvents()
        self._socket: Any = None
        self._decode: Callable[[bytes], Any] | None = None

    @property
    def address(self) -> str:
        """Where the core is to publish."""
        return f"ipc://{self._folder}/kv"

    def begin(self) -> None:
        """Listens from now on."""
        import msgspec
        import zmq

        self._decode = msgspec.msgpack.decode
        self._socket = socket = zmq.Context.instance().socket(zmq.SUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, _MAX_MESSAGES)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(self.address)

    def fetch(self) -> Sequence[KvEvent]:
        """Returns the events since the last call; where they are very many, the first ones of them."""
        if self._socket is not None:
            try:
                self._read()
            except Exception as error:
                # Routers then choose as if nothing were cached; answers are not touched.
                _log.error("no more news of vLLM's prefix cache", exc_info=error)
                self._events.lost()
                self._close_socket()
        return self._events.fetch()

    def close(self) -> None:
        """Stops listening."""
        self._close_socket()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> None:
        import zmq

        assert self._decode is not None
        left = _MAX_BLOCKS
        while left > 0:
            try:
                _, number, payload = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            left -= 1 + self._events.take(int.from_bytes(number, "big"), self._decode(payload)[1])

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
