"""What `qwenserve engine check` found is told by the worker that serves those files."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from qwenserve.runtime.config import load_config
from qwenserve.runtime.grpc_setup import make_channel
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.worker.main import run_worker
from qwenserve.worker.model_check import FILE, store, to_wire
from qwenserve.worker.prepare.compare import Measured, Position, Spoken, Thresholds, compare, facts
from qwenserve.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.worker.running import LIMIT_S, configuration

TINY = Path(__file__).parents[2] / "models" / "qwen3-tiny"


async def info_of(model: Path) -> worker_pb2.WorkerInfo:
    """What a simulated worker of a model directory tells of itself."""
    config = load_config(
        environment={},
        overrides={"model.reference": str(model), "worker.engine": "simulated", "worker.port": 0, "worker.name": "w"},
    ).config
    shutdown = Shutdown()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    process = asyncio.ensure_future(run_worker(config, shutdown=shutdown, on_ready=ready.set_result))
    try:
        port = await asyncio.wait_for(ready, 6 * LIMIT_S)
        async with make_channel(f"127.0.0.1:{port}", configuration().grpc) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            info: worker_pb2.WorkerInfo = await stub.GetWorkerInfo(
                worker_pb2.GetWorkerInfoRequest(), timeout=6 * LIMIT_S, wait_for_ready=True
            )
            return info
    finally:
        shutdown.request()
        shutdown.request()
        await asyncio.wait_for(process, LIMIT_S)


async def test_a_worker_tells_what_was_found_of_its_files(tmp_path: Path):
    """Stored by the command, read at start; not told once the files have changed."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    one = Measured("the original", [Spoken([Position(-0.5, ((1, -0.5),))], (1, 2))], 1.0, 10)
    store(folder, facts(compare(one, one), Thresholds()))

    check = (await info_of(folder)).check

    assert (check.baseline, check.positions, check.top1_agreement, check.mean_kl) == ("the original", 1, 1, 0)
    assert (check.greedy_agreement, check.passed) == (1, True)
    assert check.perplexity == check.baseline_perplexity > 1
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert not (await info_of(folder)).HasField("check")


def test_a_file_of_another_form_tells_nothing():
    assert to_wire({"a": "x"}) is None
    assert to_wire({"a": 3, "positions": "many"}) is None
    assert FILE.endswith(".json")
