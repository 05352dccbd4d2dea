"""Asks processes whether they are ready: grpc.health.v1, and a router's /readyz."""

from __future__ import annotations

import asyncio
from enum import Enum

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_ANSWER_S = 2.0


class Health(Enum):
    """What a gRPC server says about itself."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    SILENT = "silent"
    # Nothing listens: it has ended, or is finishing its last answers.
    GONE = "gone"


async def is_serving(address: str) -> bool:
    """Whether the gRPC server at `address` says that it serves."""
    return await ask_health(address) is Health.SERVING


async def ask_health(address: str, service: str = "") -> Health:
    """Asks the gRPC server at `address` about a service of it; SILENT if nothing answers within two seconds."""
    # A channel of its own: one that failed before would wait out its back-off, and one that is kept would always
    # reach the same process behind a shared port.
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        try:
            response = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=_ANSWER_S, wait_for_ready=False
            )
        except grpc.aio.AioRpcError as error:
            return Health.GONE if error.code() is grpc.StatusCode.UNAVAILABLE else Health.SILENT
    serving = response.status == health_pb2.HealthCheckResponse.SERVING
    return Health.SERVING if serving else Health.NOT_SERVING


async def is_http_ready(address: str) -> bool:
    """Whether the router at `address` answers /readyz with 200."""
    # Whoever asks learns a yes or no and tells nothing, so the certificate may be for any name.
    return await _says_ready(f"http://{address}/readyz") or await _says_ready(f"https://{address}/readyz")


async def _says_ready(url: str) -> bool:
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, ssl=False) as response:
            return response.status == 200
    except (aiohttp.ClientError, asyncio.TimeoutError):
        return False
