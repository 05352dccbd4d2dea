"""Asks processes whether they are ready: grpc.health.v1, and a router's /readyz."""

from __future__ import annotations

import asyncio
import ssl
from enum import Enum
from typing import Literal

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qwenserve.runtime.client_channel import secure_channel
from qwenserve.runtime.client_tls import ClientTls

_ANSWER_S = 2.0


class Health(Enum):
    """What a gRPC server says about itself."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    SILENT = "silent"
    # Nothing listens: it has ended, or is finishing its last answers.
    GONE = "gone"


async def is_serving(address: str, tls: ClientTls | None = None) -> bool:
    """Whether the gRPC server at `address` says that it serves; in plain text without `tls`. Raises ConfigError."""
    return await ask_health(address, tls=tls) is Health.SERVING


async def ask_health(address: str, service: str = "", *, tls: ClientTls | None = None) -> Health:
    """Asks the gRPC server at `address` about a service of it; SILENT if nothing answers within two seconds."""
    # A channel of its own: one that failed before would wait out its back-off, and one that is kept would always
    # reach the same process behind a shared port.
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    try:
        channel = (
            grpc.aio.insecure_channel(address, options=options)
            if tls is None
            else await secure_channel(address, tls, options)
        )
    except OSError:
        return Health.GONE
    async with channel:
        try:
            response = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=_ANSWER_S, wait_for_ready=False
            )
        except grpc.aio.AioRpcError as error:
            return Health.GONE if error.code() is grpc.StatusCode.UNAVAILABLE else Health.SILENT
    serving = response.status == health_pb2.HealthCheckResponse.SERVING
    return Health.SERVING if serving else Health.NOT_SERVING


async def is_http_ready(address: str, tls: ClientTls | None = None) -> bool:
    """Whether the router at `address` answers /readyz with 200, over HTTP or HTTPS. Raises ConfigError."""
    if tls is not None:
        context = tls.context()
        if tls.own:
            # Started by whoever asks. An expired certificate is no reason to take it for one that does not start.
            context.verify_mode = ssl.CERT_NONE
        return await _says_ready(f"https://{address}/readyz", context)
    # Whoever asks learns a yes or no and tells nothing, so the certificate may be for any name.
    return await _says_ready(f"http://{address}/readyz") or await _says_ready(f"https://{address}/readyz")


async def _says_ready(url: str, context: ssl.SSLContext | Literal[False] = False) -> bool:
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, ssl=context) as response:
            return response.status == 200
    except (aiohttp.ClientError, asyncio.TimeoutError):
        return False
