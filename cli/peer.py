"""Finds out what listens at an address that the user gave for a router."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from urllib.parse import urlsplit

from qwenserve.cli.errors import CommandError
from qwenserve.cli.program import program
from qwenserve.cli.state import DeploymentRecord
from qwenserve.runtime.deadlines import within

_LOOK_S = 3.0
_QUESTION = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def grpc_address(given: str, records: Sequence[DeploymentRecord]) -> str:
    """Returns the gRPC address that `given` means: a URL is reduced to its address, an HTTP port of ours is exchanged.

    Raises CommandError at once where nothing listens, or something that speaks HTTP.
    """
    address = urlsplit(given).netloc if "://" in given else given
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise CommandError(f"--address {given}: expected HOST:PORT of a router's gRPC API, such as 127.0.0.1:50051")
    for record in records:
        if record.http == address:
            return record.grpc
    try:
        reader, writer = await within(_LOOK_S, asyncio.open_connection(host.strip("[]"), int(port)))
    except asyncio.TimeoutError:
        raise CommandError(f"{address} does not answer; {program()} ps shows what runs on this machine") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise CommandError(f"nothing listens at {address} ({why}); {program()} ps shows what runs here") from None
    try:
        if await _speaks_http(reader, writer):
            raise CommandError(
                f"{address} is an HTTP server, such as a router's HTTP API; give the port of its gRPC API (50051 by "
                "default)"
            )
    finally:
        writer.close()
    return address


async def _speaks_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    # A gRPC server begins with a frame of its own, or closes the connection; an HTTP/1 server answers with text.
    with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
        writer.write(_QUESTION)
        return await within(_LOOK_S, reader.readexactly(5)) == b"HTTP/"
    return False
