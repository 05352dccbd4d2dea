"""The worker's life: start, health, drain, force, a dead engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from qwenserve.runtime.grpc_setup import from_rpc_error
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker import main as main_module
from qwenserve.worker.engine_choice import BuiltEngine
from qwenserve.worker.engine_interface import EngineError, EngineInfo
from qwenserve.worker.engines.simulated.engine import Faults, SimulatedConfig, SimulatedEngine
from qwenserve.worker.main import main, run_worker
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.worker.running import LIMIT_S, Running, configuration, running, submit

SERVICE = "qwenserve.worker.v1.WorkerService"
PACED = SimulatedConfig(step_s=0.002)
ENDLESS = {"max_tokens": 30_000}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(worker: Running, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(worker.channel)
    status: int = (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=LIMIT_S)).status
    return status


@contextlib.asynccontextmanager
async def watching_health(worker: Running) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Gives a block that began while the worker was serving a wait for the change."""
    stub = health_pb2_grpc.HealthStub(worker.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=LIMIT_S)
    assert (await watch.read()).status == SERVING

    async def not_serving() -> None:
        assert (await watch.read()).status == NOT_SERVING

    try:
        yield not_serving
    finally:
        watch.cancel()


@pytest.fixture
def logs_restored() -> Iterator[None]:
    """`main` sends all logs of the process to standard error."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_a_ready_worker_is_serving(service: str):
    async with running() as worker:
        assert await health(worker, service) == SERVING


async def test_reflection_lists_and_describes_the_service():
    async with running() as worker:
        stub = reflection_pb2_grpc.ServerReflectionStub(worker.channel)
        ask = reflection_pb2.ServerReflectionRequest
        call = stub.ServerReflectionInfo(iter([ask(list_services=""), ask(file_containing_symbol=SERVICE)]))
        listed = await call.read()
        described = await call.read()

        names = {service.name for service in listed.list_services_response.service}
        assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names
        assert described.file_descriptor_response.file_descriptor_proto


async def test_the_worker_describes_itself():
    async with running(PACED, max_running=5, max_queued=7, **{"simulated.step_ms": 3}) as worker:
        info = await worker.stub.GetWorkerInfo(worker_pb2.GetWorkerInfoRequest())

        assert (info.name, info.engine, info.model, info.model_fingerprint) == ("w", "simulated", "m", "f")
        assert (info.max_running, info.max_queued, info.kv_block_tokens) == (5, 7, 16)
        assert (info.vocab_size, info.max_model_len) == (151_936, 40_960)
        assert info.simulated
        assert not info.draining
        assert info.engine_settings == {"step_ms": "3"}


async def test_loads_are_numbered_and_tell_the_blocks():
    async with running(PACED) as worker:
        first, second = await worker.load(), await worker.load()

        assert second.sequence > first.sequence
        assert (first.free_kv_blocks, first.total_kv_blocks) == (PACED.kv_blocks, PACED.kv_blocks)


async def test_a_drain_lets_running_and_waiting_requests_finish_and_refuses_new_ones():
    async with running(PACED, max_running=1) as worker, worker.session() as client:
        await client.send(submit(1, [1], sampling=ENDLESS), submit(2, [2], sampling={"max_tokens": 3}))
        await client.tokens_of(1)
        async with watching_health(worker) as not_serving:
            worker.shutdown.request()
            await not_serving()
        await client.send(submit(3, [3]))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in worker.stub.Generate(worker_pb2.GenerateRequest(prompt_token_ids=[1])):
                pass
        info = await worker.stub.GetWorkerInfo(worker_pb2.GetWorkerInfoRequest())
        await client.finish_of(3)
        await client.tokens_of(1, len(client.answer(1).token_ids) + 3)
        await client.send(aborts=(1,))
        finishes = [await client.finish_of(handle) for handle in (1, 2, 3)]
        status = await client.status()

        assert [finish.error_reason for finish in finishes] == ["", "", "DRAINING"]
        assert len(client.answer(2).token_ids) == 3
        assert from_rpc_error(refused.value).reason == "DRAINING"
        assert info.draining
        assert from_rpc_error(status).reason == "DRAINING"
        assert await worker.exit_code() == 0


@pytest.mark.parametrize("how", ["time is over", "second signal"])
async def test_a_drain_that_takes_too_long_is_cut_short(how: str):
    patience = 0.05 if how == "time is over" else 60.0
    async with running(PACED, drain_timeout_s=patience) as worker, worker.session() as client:
        await client.send(submit(1, [1], sampling=ENDLESS))
        await client.tokens_of(1)
        async with watching_health(worker) as not_serving:
            worker.shutdown.request()
            if how == "second signal":
                await not_serving()
                worker.shutdown.request()
        finish = await client.finish_of(1)

        assert (finish.reason, finish.error_reason) == (sampling_pb2.FINISH_REASON_ABORTED, "DRAINING")
        assert await worker.exit_code() == 0
        assert worker.engine.load().running == 0


async def test_a_dead_engine_fails_its_requests_and_ends_the_worker():
    async with running(PACED, max_running=2) as worker, worker.session() as client:
        await client.send(*(submit(handle, [handle], sampling=ENDLESS) for handle in (1, 2, 3)))
        await client.tokens_of(2)
        async with watching_health(worker) as not_serving:
            worker.engine.inject(Faults(die_after_steps=0))
            finishes = [await client.finish_of(handle) for handle in (1, 2, 3)]
            await not_serving()
        status = await client.status()

        assert [finish.error_reason for finish in finishes] == ["WORKER_LOST"] * 3
        assert "died on demand" in finishes[0].error_message
        assert from_rpc_error(status).reason == "WORKER_LOST"
        assert await worker.exit_code() == 1


async def test_a_stalled_engine_does_not_hold_back_ends_and_exit():
    async with running(PACED) as worker, worker.session() as client:
        worker.engine.inject(Faults(stall_after_steps=0))
        await client.send(submit(1, [1], deadline_ms=20), submit(2, [2]))
        assert (await client.finish_of(1)).error_reason == "DEADLINE_EXCEEDED"
        await client.send(aborts=(2,))
        assert (await client.finish_of(2)).error_reason == ""
        assert await health(worker) == SERVING


class _Unstartable(SimulatedEngine):
    async def start(self, deliver: Any, on_failure: Any) -> EngineInfo:
        raise EngineError("no such model; say which with --model")


async def test_an_engine_that_cannot_start_ends_the_worker():
    code = await asyncio.wait_for(
        run_worker(configuration(), shutdown=Shutdown(), built=BuiltEngine(_Unstartable(), "")), LIMIT_S
    )

    assert code == 1


class _Loading(SimulatedEngine):
    def __init__(self) -> None:
        super().__init__()
        self.loading = asyncio.Event()

    async def start(self, deliver: Any, on_failure: Any) -> EngineInfo:
        self.loading.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_worker_that_loads_answers_not_yet_and_can_be_stopped():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    engine = _Loading()
    shutdown = Shutdown()
    process = asyncio.ensure_future(
        run_worker(configuration(port=port), shutdown=shutdown, built=BuiltEngine(engine, ""))
    )
    await asyncio.wait_for(engine.loading.wait(), LIMIT_S)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        status = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=LIMIT_S)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await worker_pb2_grpc.WorkerServiceStub(channel).GetLoad(worker_pb2.GetLoadRequest(), timeout=LIMIT_S)
    shutdown.request()

    assert status.status == NOT_SERVING
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.wait_for(process, LIMIT_S) == 0


async def test_a_taken_port_ends_the_worker():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = configuration(port=taken.getsockname()[1])

        assert await asyncio.wait_for(run_worker(config, shutdown=Shutdown()), LIMIT_S) == 1


async def test_the_command_serves_and_drains_on_a_signal():
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "qwenserve.worker", "--set", "worker.engine=simulated", "--set", "worker.port=0"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    line = await asyncio.wait_for(process.stderr.readline(), 30)
    process.send_signal(signal.SIGTERM)
    rest = await asyncio.wait_for(process.stderr.read(), LIMIT_S)

    assert b'"event": "ready"' in line
    assert b'"event": "stopped"' in rest
    assert await asyncio.wait_for(process.wait(), LIMIT_S) == 0


async def test_what_loading_left_is_kept_from_the_collector_before_anybody_is_served(monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    monkeypatch.setattr(main_module, "freeze_loaded_objects", lambda: done.append("settled"))

    def ready(port: int) -> None:
        done.append("ready")
        signal.raise_signal(signal.SIGTERM)

    built = BuiltEngine(SimulatedEngine(SimulatedConfig()), "")

    assert await asyncio.wait_for(run_worker(configuration(), built=built, on_ready=ready), LIMIT_S) == 0
    assert done == ["settled", "ready"]


@pytest.mark.usefixtures("logs_restored")
@pytest.mark.parametrize("setting", ["worker.prot=1", "worker.port", "worker.port=x"])
def test_a_bad_setting_is_named(setting: str, capsys: pytest.CaptureFixture[str]):
    assert main(["--set", setting]) == 2
    assert setting.partition("=")[0] in capsys.readouterr().err


@pytest.mark.usefixtures("logs_restored")
@pytest.mark.parametrize(
    ("setting", "named"), [("worker.simulated.fault=explode:1", "explode"), ("worker.simulated.answer=a,b", "a,b")]
)
def test_a_bad_engine_setting_is_named(setting: str, named: str, capsys: pytest.CaptureFixture[str]):
    code = main(["--set", "worker.engine=simulated", "--set", "worker.port=0", "--set", setting])

    assert code == 1
    assert named in capsys.readouterr().err
