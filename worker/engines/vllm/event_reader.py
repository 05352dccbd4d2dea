"""Reads the socket on which vLLM's core tells what its prefix cache holds."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qwenserve.worker.engine_interface import KvEvent
from qwenserve.worker.engines.vllm.block_events import BlockEvents

_log = logging.getLogger(__name__)


class EventReader:
    """One engine's events. The socket is a file that only this user can reach: no port is opened."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="qwenserve-"))
        self._events = BlockEvents()
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where the core is to publish."""
        return f"ipc://{self._folder}/kv"

    def begin(self) -> None:
        """Reads from now on."""
        self._task = asyncio.get_running_loop().create_task(self._read(), name="vllm-kv-events")

    def fetch(self) -> Sequence[KvEvent]:
        """Returns the events since the last call."""
        return self._events.fetch()

    async def close(self) -> None:
        """Stops reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _read(self) -> None:
        import msgspec
        import zmq
        import zmq.asyncio

        socket = zmq.asyncio.Context.instance().socket(zmq.SUB)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(self.address)
            decode = msgspec.msgpack.decode
            while True:
                _, number, payload = await socket.recv_multipart()
                self._events.take(int.from_bytes(number, "big"), decode(payload)[1])
        except Exception as error:
            # Routers then choose as if nothing were cached; answers are not touched.
            _log.error("no more news of vLLM's prefix cache", exc_info=error)
            self._events.lost()
        finally:
            socket.close()
