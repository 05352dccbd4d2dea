"""A deployment whose workers are MPI jobs loses no answer with a rank."""

from __future__ import annotations

import pytest

from tests.cli.conftest import CommandLine

pytest.importorskip("mpi4py", reason="mpi4py is not installed (qwenserve[mpi])")


@pytest.mark.timeout(300)
def test_answers_go_on_elsewhere_when_a_rank_is_killed(qwenserve: CommandLine) -> None:
    qwenserve(
        *("up", "--name", "ranked", "--detach", "--engine", "simulated", "--http-port", "0", "--grpc-port", "0"),
        *("--set", "worker.mpi.ranks=2", "--workers", "2"),
    )
    output = qwenserve(
        *("drill", "ranked", "--drills", "kill-rank", "--times", "1", "--clients", "3", "--tokens", "100")
    )
    assert ["kill-rank", "pass"] in [line.split()[:2] for line in output.splitlines()], output
    qwenserve("stop", "ranked")
