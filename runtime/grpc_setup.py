"""gRPC as every tier uses it: options for both ends, error mapping, request ids, keys, health, reflection."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from qwenserve.runtime.auth import KeyRing
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.errors import DOMAIN, InternalError, InvalidRequest, ServiceError, Unauthenticated, by_reason
from qwenserve.runtime.file_limit import file_limit
from qwenserve.runtime.grpc_wakeups import setting_up
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.tls import Certificate, channel_credentials, server_credentials
from qwenserve.runtime.trust import OPEN, TOKEN_HEADER, Trust

_log = EventLog("grpc")

# Reachable without a key: what operators and load balancers call.
_OPEN_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")


def server_options(config: GrpcConfig, *, share_port: bool = False) -> list[tuple[str, int]]:
    """Options of a server. `share_port` lets several processes listen on one port."""
    return [
        *_common_options(config),
        ("grpc.so_reuseport", int(share_port)),
        ("grpc.max_allowed_incoming_connections", min(config.max_connections, max(1, file_limit() // 4))),
        # Not only clients that have left something open: also what connects and says nothing.
        ("grpc.max_connection_idle_ms", int(config.idle_timeout_s * 1000)),
        # Clients ping as often as our own channels do; the default of one per five minutes would cut them off.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", int(config.keepalive_time_s * 500)),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def channel_options(config: GrpcConfig) -> list[tuple[str, int]]:
    """Options of a channel to another tier."""
    return [
        *_common_options(config),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
        # Our retries are decisions of the router, never silent ones of the transport.
        ("grpc.enable_retries", 0),
        # A proxy in the environment is meant for other hosts, not for the tiers of one deployment.
        ("grpc.enable_http_proxy", 0),
    ]


def _common_options(config: GrpcConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.keepalive_time_ms", int(config.keepalive_time_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(config.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def make_server(
    config: GrpcConfig, *, keys: KeyRing | None = None, trust: Trust | None = None, share_port: bool = False
) -> grpc.aio.Server:
    """Returns a server that maps our errors to statuses.

    With `keys` it asks for one, with `trust` for the deployment's token.
    """
    interceptors: list[grpc.aio.ServerInterceptor] = [_ErrorInterceptor()]
    if keys is not None and keys.required:
        interceptors.insert(0, _KeyInterceptor(keys))
    if trust is not None and trust.token:
        interceptors.insert(0, _TokenInterceptor(trust))
    with setting_up():
        return grpc.aio.server(options=server_options(config, share_port=share_port), interceptors=interceptors)


def listen(server: grpc.aio.Server, address: str, certificate: Certificate | None) -> int:
    """Makes a server listen; without a certificate in plain text. Returns the port. Raises RuntimeError if taken."""
    port: int = (
        server.add_insecure_port(address)
        if certificate is None
        else server.add_secure_port(address, server_credentials(certificate))
    )
    return port


def make_channel(
    address: str,
    config: GrpcConfig,
    *,
    receive_window: int | None = None,
    trust: Trust = OPEN,
    credentials: grpc.ChannelCredentials | None = None,
) -> grpc.aio.Channel:
    """Returns a channel to another tier of this deployment, as `trust` says; or to a public port with
    `credentials`.

    `receive_window`: bytes that the other side may send ahead of what was read here. None lets gRPC grow it.
    """
    options = channel_options(config)
    if receive_window is not None:
        options += [("grpc.http2.lookahead_bytes", receive_window), ("grpc.http2.bdp_probe", 0)]
    with setting_up():
        if credentials is not None:
            return grpc.aio.secure_channel(address, credentials, options=options)
        if trust.certificate is None:
            return grpc.aio.insecure_channel(address, options=options)
        named = [("grpc.ssl_target_name_override", trust.name)] if trust.name else []
        return grpc.aio.secure_channel(
            address, channel_credentials(trust.certificate.current()), options=[*options, *named]
        )


class Health:
    """grpc.health.v1 for a server: its services and the empty name for the whole."""

    def __init__(self, server: grpc.aio.Server, services: Sequence[str]) -> None:
        self._names = ("", *services)
        self._servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        servicer = reflection.aio.ReflectionServicer([*services, health.SERVICE_NAME, reflection.SERVICE_NAME])
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
        server.add_generic_rpc_handlers((_newer_reflection(servicer),))

    @contextlib.asynccontextmanager
    async def apart(self, port: int) -> AsyncIterator[None]:
        """Inside the block, health checks alone are answered at a loopback port too, in plain text; 0 is no port.

        Raises RuntimeError for a port that is taken.
        """
        if not port:
            yield
            return
        with setting_up():
            server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)

    async def set(self, serving: bool) -> None:
        """Tells all watchers."""
        states = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._servicer.set(name, states.SERVING if serving else states.NOT_SERVING)

    async def set_one(self, name: str, serving: bool) -> None:
        """Tells the watchers of one further name."""
        states = health_pb2.HealthCheckResponse
        await self._servicer.set(name, states.SERVING if serving else states.NOT_SERVING)


def _newer_reflection(servicer: reflection_pb2_grpc.ServerReflectionServicer) -> grpc.GenericRpcHandler:
    """Returns reflection v1, which newer tools ask for first. It is v1alpha under another name, with the same messages
    on the wire; grpcio-reflection has the older name only.
    """
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("grpc.reflection.v1.ServerReflection", {"ServerReflectionInfo": method})


async def run_until_one_ends(call: Any, *work: Coroutine[Any, Any, None], name: str) -> None:
    """Runs the tasks of a stream until one of them ends, then ends the call and the others.

    Raises the call's status as AioRpcError where it is not OK, else what the task that ended raises.
    """
    tasks = [asyncio.create_task(each, name=name) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            await raise_status(call)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        call.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def raise_status(call: Any) -> None:
    """Raises the status of a call that has ended as AioRpcError, unless it is OK."""
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), details=await call.details()
        )


def to_status(error: ServiceError) -> grpc.Status:
    """Returns the gRPC status of an error."""
    return rpc_status.to_status(rich_status(error))


def rich_status(error: ServiceError) -> status_pb2.Status:
    """Returns an error as google.rpc.Status, with ErrorInfo, and RetryInfo where waiting helps."""
    metadata = dict(error.metadata)
    if error.param is not None:
        metadata["param"] = error.param
    status = status_pb2.Status(code=error.status.value[0], message=error.message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def from_rpc_error(error: grpc.aio.AioRpcError) -> ServiceError:
    """Returns the error that a call of ours failed with, as the other side meant it."""
    try:
        rich = rpc_status.from_call(error)
    except ValueError:  # details that contradict the status: a peer that is none of ours
        rich = None
    meant = from_rich_status(rich) if rich is not None else None
    if meant is not None:
        return meant
    known = _BY_STATUS.get(error.code(), InternalError)
    return known(f"{error.code().name}: {error.details()}")


def from_rich_status(status: status_pb2.Status) -> ServiceError | None:
    """Returns the error that a status of ours stands for; None for one without ErrorInfo, which is none of ours."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    known, retry_after_s = False, None
    for detail in status.details:
        known = detail.Unpack(info) or known
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    if not known:
        return None
    metadata = dict(info.metadata)
    param = metadata.pop("param", None)
    return by_reason(info.reason)(status.message, param=param, metadata=metadata, retry_after_s=retry_after_s)


_BY_STATUS: Mapping[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.UNAVAILABLE: by_reason("NO_WORKER"),
    grpc.StatusCode.DEADLINE_EXCEEDED: by_reason("DEADLINE_EXCEEDED"),
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: by_reason("QUEUE_FULL"),
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}


async def abort_with(context: grpc.aio.ServicerContext[Any, Any], error: ServiceError) -> None:
    """Ends a call with an error. Always raises."""
    status = to_status(error)
    await context.abort(status.code, status.details, (*context.trailing_metadata(), *status.trailing_metadata))


Behavior = Callable[[Any, Any], Any]


def _shape(handler: grpc.RpcMethodHandler) -> tuple[str, Callable[..., grpc.RpcMethodHandler]]:
    """Returns the attribute that holds a handler's function, and the maker of handlers like it."""
    sides = (
        "stream" if streaming else "unary" for streaming in (handler.request_streaming, handler.response_streaming)
    )
    attribute = "_".join(sides)
    return attribute, getattr(grpc, f"{attribute}_rpc_method_handler")


class _Interceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of our own services; those for operators stay as they are."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OPEN_SERVICES):
            return handler
        return self.wrap(handler, details)

    def wrap(self, handler: grpc.RpcMethodHandler, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Returns what answers the call."""
        raise NotImplementedError


class _ErrorInterceptor(_Interceptor):
    """Turns ServiceErrors into statuses, and defects into INTERNAL with a log line."""

    def wrap(self, handler: grpc.RpcMethodHandler, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        attribute, make = _shape(handler)
        inner = getattr(handler, attribute)
        guard = _guard_stream if inspect.isasyncgenfunction(inner) else _guard
        return make(
            guard(inner, details.method),
            request_deserializer=handler.request_deserializer
            if handler.request_streaming
            else _lenient(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def _guard(inner: Behavior, method: str) -> Behavior:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await inner(_decoded(request), context)
        except ServiceError as error:
            await abort_with(context, error)
        except DecodeError as error:
            await _abort_undecodable(context, method, error)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort_defect(context, method, error)

    return call


def _guard_stream(inner: Behavior, method: str) -> Behavior:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        if isinstance(request, _Undecodable):
            await _abort_undecodable(context, method, request.error)
        stream = inner(request, context)
        try:
            async for message in stream:
                yield message
        except ServiceError as error:
            await abort_with(context, error)
        except DecodeError as error:
            await _abort_undecodable(context, method, error)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort_defect(context, method, error)
        finally:
            await stream.aclose()

    return call


class _Undecodable(NamedTuple):
    """Stands for a request whose bytes are no message of its type. Raised where the library reads it, the error would
    be a traceback in the log and UNKNOWN to the caller.
    """

    error: DecodeError


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            return _Undecodable(error)

    return read


def _decoded(request: Any) -> Any:
    if isinstance(request, _Undecodable):
        raise request.error
    return request


async def _abort_undecodable(context: grpc.aio.ServicerContext[Any, Any], method: str, error: DecodeError) -> None:
    _log.warning("undecodable_request", method=method, reason=str(error))
    await abort_with(context, InvalidRequest(f"the request's bytes are no message of its type: {error}"))


async def _abort_defect(context: grpc.aio.ServicerContext[Any, Any], method: str, error: Exception) -> None:
    _log.error("call_failed", method=method, exc_info=error)
    await abort_with(context, InternalError("internal error; the server's log has the details"))


class _KeyInterceptor(_Interceptor):
    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def wrap(self, handler: grpc.RpcMethodHandler, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        authorization = next((value for key, value in details.invocation_metadata if key == "authorization"), None)
        try:
            self._keys.check(authorization if isinstance(authorization, str) else None)
        except Unauthenticated as error:
            return _refusing(handler, error)
        return handler


class _TokenInterceptor(_Interceptor):
    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    def wrap(self, handler: grpc.RpcMethodHandler, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        try:
            self._trust.check(next((value for key, value in details.invocation_metadata if key == TOKEN_HEADER), None))
        except Unauthenticated as error:
            return _refusing(handler, error)
        return handler


def _refusing(handler: grpc.RpcMethodHandler, error: ServiceError) -> grpc.RpcMethodHandler:
    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await abort_with(context, error)

    _, make = _shape(handler)
    return make(
        refuse,
        request_deserializer=None,  # nothing of it is read
        response_serializer=handler.response_serializer,
    )
