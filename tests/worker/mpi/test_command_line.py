"""What starts the ranks, for each family of MPI and style of engine; no secret and no setting is an argument."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qwenserve.runtime.config import load_config
from qwenserve.worker.main import main
from qwenserve.worker.mpi.command_line import (
    Family,
    Launch,
    Style,
    command_line,
    family_of,
    rank_environment,
)

OPEN_MPI = Launch("mpirun", Family.OPEN_MPI, Style.RANKS, 4, "python3")
MPICH = replace(OPEN_MPI, mpirun="mpiexec", family=Family.MPICH)


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        (OPEN_MPI, "mpirun -np 4 --bind-to none --oversubscribe -x QWENSERVE_A python3 -m qwenserve.worker"),
        (
            replace(OPEN_MPI, hostfile="/h", config_file="/c d.yaml", as_root=True, further=("--map-by", "node")),
            "mpirun -np 4 --bind-to none --oversubscribe --allow-run-as-root --hostfile /h -x QWENSERVE_A "
            "--map-by node python3 -m qwenserve.worker --config /c d.yaml",
        ),
        (MPICH, "mpiexec -n 4 -genvall python3 -m qwenserve.worker"),
        (replace(MPICH, hostfile="/h"), "mpiexec -n 4 -genvall -f /h python3 -m qwenserve.worker"),
        (
            replace(OPEN_MPI, style=Style.TRTLLM, config_file="/c d.yaml"),
            "mpirun -np 4 --bind-to none --oversubscribe -x QWENSERVE_A trtllm-llmapi-launch python3 -m "
            "qwenserve.worker.mpi.trtllm_leader",
        ),
    ],
)
def test_the_line(launch: Launch, expected: str) -> None:
    assert " ".join(command_line(launch, ["QWENSERVE_A"])) == expected


@pytest.mark.parametrize(
    ("printed", "family"),
    [
        ("mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/", Family.OPEN_MPI),
        ("mpirun (Open MPI) 4.1.4", Family.OPEN_MPI),
        ("HYDRA build details:\n    Version:  4.2.0", Family.MPICH),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.13", Family.MPICH),
        ("slurm 23.11", None),
    ],
)
def test_the_family_is_told_by_what_the_program_prints(printed: str, family: Family | None) -> None:
    assert family_of(printed) is family


def test_ranks_read_the_settings_of_the_command_line_and_keep_names_that_launchers_strip_out_of_them() -> None:
    settings = {"worker.engine": "simulated", "worker.simulated.kv_blocks": "7", "store.url": "redis://u:p@h"}
    outside = {"QWENSERVE_WORKER__PORT": "1234", "QWENSERVE_LOG__FILE": "/log"}
    environment = rank_environment(outside, settings, job="/job", config_file="/c.yaml", one_machine=True)

    stripped = (
        "OMPI_",
        "PMIX_",
        "PMI_",
        "SLURM_",
        "MPI_",
        "UCX_",
        "I_MPI_",
        "HYDRA_",
        "KMP_",
        "MPICH_",
        "MV2_",
        "CRAY_",
    )
    kept = {name: value for name, value in environment.items() if not name.startswith(stripped)}
    config = load_config(environment=kept).config
    assert (config.worker.engine, config.worker.port, config.log.file) == ("simulated", 1234, "")
    assert config.worker.engine_settings["simulated"] == {"kv_blocks": 7}
    assert config.store.url.reveal() == "redis://u:p@h"
    assert kept["QWENSERVE_MPI_JOB"] == "/job"
    assert kept["QWENSERVE_MPI_CONFIG"] == "/c.yaml"


def test_what_mpi_keeps_is_below_the_job_on_one_machine_only() -> None:
    one = rank_environment({}, {}, job="/job", config_file="", one_machine=True)
    several = rank_environment({}, {}, job="/job", config_file="", one_machine=False)
    assert {one["TMPDIR"], one["OMPI_MCA_btl_sm_backing_directory"]} == {"/job"}
    assert not {"TMPDIR", "OMPI_MCA_btl_sm_backing_directory"} & several.keys()


def _mpirun(directory: Path, prints: str) -> Path:
    program = directory / "mpirun"
    program.write_text(f"#!/bin/sh\necho '{prints}'\n", encoding="ascii")
    program.chmod(0o755)
    return program


def test_a_dry_run_prints_the_line_without_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = _mpirun(tmp_path, "HYDRA build details")
    code = main(
        [
            *("--mpi-np", "3", "--dry-run"),
            *("--set", f"worker.mpi.launcher={program}"),
            *("--set", "worker.engine=simulated"),
            *("--set", "store.password=secret"),
        ]
    )
    printed = capsys.readouterr().out
    assert code == 0
    assert printed.startswith(f"{program} -n 3 -genvall ")
    assert "secret" not in printed


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["worker.engine=llamacpp"], "worker.mpi.ranks: the llamacpp engine"),
        (["worker.mpi.launcher=/nowhere/mpirun"], "/nowhere/mpirun"),
        (["worker.mpi.hostfile=/nowhere/hosts"], "worker.mpi.hostfile"),
    ],
)
def test_what_cannot_be_started_is_refused_by_its_key(
    settings: list[str], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = _mpirun(tmp_path, "mpirun (Open MPI) 5.0.11")
    given = ["worker.engine=simulated", f"worker.mpi.launcher={program}", *settings]
    code = main(["--mpi-np", "2", "--dry-run", *(part for item in given for part in ("--set", item))])
    assert code == 1
    assert told in capfd.readouterr().err
