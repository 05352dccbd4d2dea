"""Channels, servers and the statuses of errors."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import ContextLengthExceeded, InternalError, QueueFull, ServiceError, Unavailable
from qwenserve.runtime.grpc_setup import Health, from_rpc_error, make_channel, make_server, server_options, to_status

CONFIG = GrpcConfig()


def as_rpc_error(error: ServiceError, **changes: object) -> grpc.aio.AioRpcError:
    status = to_status(error)
    values = {"code": status.code, "details": status.details, **changes}
    metadata = grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(values["code"], grpc.aio.Metadata(), metadata, details=values["details"])


@pytest.mark.parametrize(
    "error",
    [
        ContextLengthExceeded("too long", param="messages", metadata={"max_model_len": "8"}),
        QueueFull("full", retry_after_s=1.5),
        InternalError("broken"),
    ],
)
def test_an_error_comes_over_the_wire_as_what_it_was(error: ServiceError) -> None:
    back = from_rpc_error(as_rpc_error(error))

    assert type(back) is type(error)
    assert (back.message, back.param, back.metadata) == (error.message, error.param, error.metadata)


def test_waiting_is_told_where_it_helps() -> None:
    status = status_pb2.Status.FromString(
        dict(to_status(QueueFull("full", retry_after_s=1.5)).trailing_metadata)["grpc-status-details-bin"]
    )
    retry = error_details_pb2.RetryInfo()

    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_details_that_contradict_the_status_are_not_believed() -> None:
    odd = as_rpc_error(QueueFull("full"), code=grpc.StatusCode.UNAVAILABLE)

    assert isinstance(from_rpc_error(odd), Unavailable)


async def test_a_proxy_in_the_environment_is_not_used_between_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = make_server(CONFIG)
    await Health(server, []).set(True)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with make_channel(f"127.0.0.1:{port}", CONFIG) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    finally:
        await server.stop(None)

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_connections_beyond_the_bound_are_closed_and_silent_ones_after_a_while() -> None:
    """A caller is answered again once those that said nothing have gone."""
    server = make_server(GrpcConfig(max_connections=2, idle_timeout_s=0.2))
    Health(server, ["s"])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    loop = asyncio.get_running_loop()

    async def ended(connection: socket.socket) -> bool:
        with contextlib.suppress(ConnectionError):
            while await loop.sock_recv(connection, 4096):
                pass
        return True

    try:
        with contextlib.ExitStack() as opened:
            silent = []
            for _ in range(4):
                silent.append(opened.enter_context(socket.create_connection(("127.0.0.1", port))))
                silent[-1].setblocking(False)
            # The settings that the server sends first come to those that it keeps.
            assert [len(await loop.sock_recv(one, 9)) for one in silent[:2]] == [9, 9]
            assert await asyncio.wait_for(asyncio.gather(*map(ended, silent)), 60)
        async with make_channel(f"127.0.0.1:{port}", CONFIG) as channel:
            call = health_pb2_grpc.HealthStub(channel).Check
            await call(health_pb2.HealthCheckRequest(), timeout=60, wait_for_ready=True)
    finally:
        await server.stop(None)


def test_a_quarter_of_the_files_is_the_most_that_grpc_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))

    assert dict(server_options(CONFIG))["grpc.max_allowed_incoming_connections"] == 25
