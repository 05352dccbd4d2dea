"""Channels to the public port of a router, for those who call it from outside."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

import grpc

from qwenserve.runtime.client_tls import ClientTls
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.deadlines import within
from qwenserve.runtime.grpc_setup import channel_options, make_channel
from qwenserve.runtime.grpc_wakeups import setting_up

_CONNECT_S = 10.0


async def router_channel(address: str, tls: ClientTls | None) -> grpc.aio.Channel:
    """Returns a channel, in plain text without `tls`.

    Raises ConfigError naming a file that cannot be used, and OSError where a server that is known by its certificate
    has to be looked at first, and is not there or shows another one.
    """
    if tls is None:
        return make_channel(address, GrpcConfig())
    return await secure_channel(address, tls, channel_options(GrpcConfig()))


async def secure_channel(address: str, tls: ClientTls, options: Sequence[tuple[str, int | str]]) -> grpc.aio.Channel:
    """Returns a channel with these options. Raises like `router_channel`."""
    context = tls.context()
    named = [("grpc.ssl_target_name_override", await _name_at(address, context))] if tls.own else []
    believed = tls.believed() or _system_authorities(context)
    credentials = grpc.ssl_channel_credentials(believed.encode() or None, *(tls.pair() or ()))
    with setting_up():
        return grpc.aio.secure_channel(address, credentials, options=[*options, *named])


async def _name_at(address: str, context: ssl.SSLContext) -> str:
    """Returns a name that the server's certificate is for: gRPC believes none without comparing one."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await within(_CONNECT_S, asyncio.open_connection(host.strip("[]"), int(port), ssl=context))
    except asyncio.TimeoutError:
        raise OSError(f"{address} does not answer") from None
    try:
        certificate = writer.get_extra_info("peercert")
    finally:
        writer.transport.abort()
    names = dict(reversed(certificate.get("subjectAltName", ())))
    return str(names.get("DNS") or names.get("IP Address") or host)


def _system_authorities(context: ssl.SSLContext) -> str:
    """Returns what the system believes; empty where that cannot be listed: gRPC then has authorities of its own."""
    return "".join(map(ssl.DER_cert_to_PEM_cert, context.get_ca_certs(binary_form=True)))
