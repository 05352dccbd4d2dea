"""Finds out what listens at an address that the user gave for a router."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

from qwenserve.cli.errors import CommandError
from qwenserve.cli.program import program
from qwenserve.cli.state import DeploymentRecord
from qwenserve.runtime.client_tls import ClientTls
from qwenserve.runtime.deadlines import within

_LOOK_S = 3.0
_QUESTION = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_PROTOCOLS = ("h2", "http/1.1")


async def find_router(
    given: str, tls: ClientTls | None, records: Sequence[DeploymentRecord]
) -> tuple[str, ClientTls | None]:
    """Returns the gRPC address that `given` means, and how to call it: a URL is reduced to its address, an HTTP port of
    ours is exchanged, and what is known of our own deployments needs not be said.

    Raises CommandError at once where nothing listens, something that speaks HTTP, or TLS that nobody asked for; and
    ConfigError for files that cannot be used.
    """
    address = urlsplit(given).netloc if "://" in given else given
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise CommandError(f"--address {given}: expected HOST:PORT of a router's gRPC API, such as 127.0.0.1:50051")
    for record in records:
        if address in (record.http, record.grpc):
            return record.grpc, tls or record.tls
    try:
        speaks_http = await _speaks_http(address, tls.context() if tls is not None else None)
        if not speaks_http and tls is None and await _speaks_tls(address):
            raise CommandError(
                f"{address} speaks TLS: give --address https://{address}, and --cacert FILE for an authority that this "
                "machine does not know"
            )
    except asyncio.TimeoutError:
        raise CommandError(f"{address} does not answer; {program()} ps shows what runs on this machine") from None
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or str(error)
        raise CommandError(f"no TLS connection to {address}: {why}; see --cacert, --cert and --key") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise CommandError(f"nothing listens at {address} ({why}); {program()} ps shows what runs here") from None
    if speaks_http:
        raise CommandError(
            f"{address} is an HTTP server, such as a router's HTTP API; give the port of its gRPC API (50051 by "
            "default)"
        )
    return address, tls


async def _speaks_http(address: str, context: ssl.SSLContext | None) -> bool:
    """Whether an HTTP/1 server listens there. Raises OSError and TimeoutError where no connection can be made."""
    if context is not None:
        context.set_alpn_protocols(list(_PROTOCOLS))
    reader, writer = await _connect(address, context)
    try:
        if context is not None:
            # Over TLS a server says what it speaks.
            return bool(writer.get_extra_info("ssl_object").selected_alpn_protocol() != _PROTOCOLS[0])
        # A gRPC server begins with a frame of its own, or closes the connection; an HTTP/1 server answers with text.
        with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            writer.write(_QUESTION)
            return await within(_LOOK_S, reader.readexactly(5)) == b"HTTP/"
        return False
    finally:
        writer.transport.abort()


async def _speaks_tls(address: str) -> bool:
    # Nothing is said or believed here: whether there is an answer is all that is asked.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(_PROTOCOLS))
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        _, writer = await _connect(address, context)
        writer.transport.abort()
        return True
    return False


async def _connect(address: str, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await within(_LOOK_S, asyncio.open_connection(host.strip("[]"), int(port), ssl=context))
