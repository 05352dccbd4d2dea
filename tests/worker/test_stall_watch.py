"""An engine that has work and makes no steps makes its worker NOT_SERVING, until it goes on."""

from __future__ import annotations

import contextlib

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from qwenserve.worker.engines.simulated.state import Faults, SimulatedConfig
from qwenserve.worker.v1 import worker_pb2
from tests.worker.running import Running, running, submit

STEPPING = SimulatedConfig(step_s=0.01)
States = health_pb2.HealthCheckResponse


async def until_health(worker: Running, state: int) -> None:
    """Returns once the worker's health is `state`; fails after a while."""
    watch = health_pb2_grpc.HealthStub(worker.channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
    try:
        while (await watch.read()).status != state:
            pass
    finally:
        watch.cancel()


async def ends_with(call: grpc.aio.StreamStreamCall) -> tuple[grpc.StatusCode, str]:
    """Reads a session to its end."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return await call.code(), await call.details() or ""


async def test_an_engine_that_stands_still_ends_sessions_and_refuses_new_ones_until_it_goes_on() -> None:
    async with running(STEPPING, stall_timeout_s=0.4) as worker:
        call = worker.stub.Session()
        await call.write(worker_pb2.SessionRequest(submits=[submit(1, [1, 2, 3], sampling={"max_tokens": 10_000})]))
        await call.read()
        worker.engine.inject(Faults(stall_after_steps=0))

        code, details = await ends_with(call)
        assert (code, "no step" in details) == (grpc.StatusCode.UNAVAILABLE, True)
        await until_health(worker, States.NOT_SERVING)
        refused = worker.stub.Session()
        await refused.write(worker_pb2.SessionRequest(ping=True))
        assert (await ends_with(refused))[0] is grpc.StatusCode.UNAVAILABLE

        worker.engine.inject(Faults())
        await until_health(worker, States.SERVING)
        taken = worker.stub.Session()
        await taken.write(worker_pb2.SessionRequest(submits=[submit(1, [1, 2, 3], sampling={"max_tokens": 1})]))
        answer = await taken.read()
        assert list(answer.handles) == [1]
        taken.cancel()


async def test_a_prefill_of_many_steps_is_no_stall() -> None:
    slow_prefill = SimulatedConfig(step_s=0.001, prefill_tokens_per_s=1000.0, prefill_chunk_tokens=20)
    async with running(slow_prefill, stall_timeout_s=0.8) as worker:
        call = worker.stub.Session()
        await call.write(worker_pb2.SessionRequest(submits=[submit(1, [1] * 1200, sampling={"max_tokens": 1})]))
        answer = await call.read()

        assert list(answer.handles) == [1]
        call.cancel()
