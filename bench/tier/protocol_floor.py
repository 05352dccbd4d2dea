"""The bare asyncio.Protocol floor: `python -m qwenserve.bench.tier.protocol_floor --port N --step-ms N`.

No framework at all: one write of a ready-made event per stream and step.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys

from qwenserve.bench.tier.floor import Beat, asked_tokens, event, last_events
from qwenserve.runtime.lifecycle import Shutdown, run

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_EVENT = _chunk(event())


class Stream(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, beat: Beat) -> None:
        self._beat = beat
        self._buffer = b""
        self._left = self._count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(body) < int(length[1]):
            return
        self._buffer = b""
        self._left = self._count = asked_tokens(body)
        self._transport.write(_HEAD)
        if self._beat.step_s:
            self._beat.next(self._step)
            return
        while self._left:
            self._send()

    def _step(self) -> None:
        if self._transport.is_closing():
            return
        self._send()
        if self._left:
            self._beat.next(self._step)

    def _send(self) -> None:
        self._left -= 1
        self._transport.write(_EVENT)
        if not self._left:
            self._transport.write(_chunk(last_events(self._count)) + b"0\r\n\r\n")


async def _serve(port: int, step_s: float) -> int:
    beat = Beat(step_s)
    shutdown = Shutdown()
    with shutdown.on_signals():
        server = await asyncio.get_running_loop().create_server(lambda: Stream(beat), "127.0.0.1", port)
        async with server:
            await shutdown.drain.wait()
    return 0


def main() -> int:
    """Serves until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-ms", type=float, default=10.0)
    given = parser.parse_args()
    return run(_serve(given.port, given.step_ms / 1000))


if __name__ == "__main__":
    sys.exit(main())
