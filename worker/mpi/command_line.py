"""The command line that starts the ranks of a worker. Pure.

What ranks are told goes through the environment, under names that begin with QWENSERVE_: Open MPI takes the names of
variables to pass on to other machines, MPICH passes on all of them, and TensorRT-LLM's launcher, which removes what
begins with OMPI_, PMI_, SLURM_ and the like, leaves these alone. So no setting, and no secret, is ever an argument.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Everything begins with it that ranks read from the environment.
EXPORTED = "QWENSERVE_"
# The directory of the job (`job.JobDirectory`); who has it in the environment was started by the launcher.
JOB_VARIABLE = "QWENSERVE_MPI_JOB"
# The configuration file, for a process that can be given no arguments.
CONFIG_VARIABLE = "QWENSERVE_MPI_CONFIG"


class Family(enum.Enum):
    """Whose `mpirun` it is: they take different flags."""

    OPEN_MPI = "Open MPI"
    MPICH = "MPICH"


class Style(enum.Enum):
    """What the ranks of an engine run."""

    # Every rank runs the worker's program; rank 0 serves, the others follow it.
    RANKS = "ranks"
    # TensorRT-LLM's launcher runs the worker once, on rank 0, and its own servers on the other ranks.
    TRTLLM = "trtllm"


@dataclass(frozen=True, slots=True)
class Launch:
    """What is to be started. `mpirun` and `python` are programs; `hostfile` and `config_file` may be empty."""

    mpirun: str
    family: Family
    style: Style
    ranks: int
    python: str
    hostfile: str = ""
    config_file: str = ""
    further: Sequence[str] = ()
    as_root: bool = False


def family_of(version: str) -> Family | None:
    """Returns whose program printed this for `--version`; None: unknown. Intel MPI and MVAPICH are of MPICH's kin."""
    if "Open MPI" in version or "OpenRTE" in version or "prte" in version.lower():
        return Family.OPEN_MPI
    if any(name in version for name in ("HYDRA", "Hydra", "MPICH", "Intel(R) MPI", "MVAPICH")):
        return Family.MPICH
    return None


def command_line(launch: Launch, exported: Sequence[str]) -> list[str]:
    """Returns the arguments, the program first. `exported` are names of variables that ranks need everywhere."""
    return [launch.mpirun, *_flags(launch, exported), *launch.further, *_program(launch)]


def _flags(launch: Launch, exported: Sequence[str]) -> list[str]:
    if launch.family is Family.OPEN_MPI:
        # Not bound to a core each: a rank has threads, and rank 0 serves beside computing.
        flags = ["-np", str(launch.ranks), "--bind-to", "none", "--oversubscribe"]
        if launch.as_root:
            flags.append("--allow-run-as-root")
        if launch.hostfile:
            flags += ["--hostfile", launch.hostfile]
        for name in sorted(exported):
            flags += ["-x", name]
        return flags
    flags = ["-n", str(launch.ranks), "-genvall"]
    return [*flags, "-f", launch.hostfile] if launch.hostfile else flags


def _program(launch: Launch) -> list[str]:
    if launch.style is Style.TRTLLM:
        # Without arguments: this launcher joins them to one text and splits it again.
        return ["trtllm-llmapi-launch", launch.python, "-m", "qwenserve.worker.mpi.trtllm_leader"]
    config = ["--config", launch.config_file] if launch.config_file else []
    return [launch.python, "-m", "qwenserve.worker", *config]


def variable_of(key: str) -> str:
    """Returns the environment variable that sets a setting, such as QWENSERVE_WORKER__PORT for worker.port."""
    return EXPORTED + key.upper().replace(".", "__")


def rank_environment(
    environment: Mapping[str, str], settings: Mapping[str, str], *, job: str, config_file: str, one_machine: bool
) -> dict[str, str]:
    """Returns the environment of the ranks: `environment`, with settings of the command line as variables.

    On one machine what MPI keeps in shared memory and in files is below the job's directory, and goes with it.
    """
    result = {**environment, **{variable_of(key): text for key, text in settings.items()}}
    # The launcher's own log takes what ranks write: several processes cannot keep one file in turn.
    result[variable_of("log.file")] = ""
    result[JOB_VARIABLE] = job
    if config_file:
        result[CONFIG_VARIABLE] = config_file
    # Waiting ranks give their core away, whatever else runs there.
    result.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    if one_machine:
        result["TMPDIR"] = job
        for name in ("btl_sm", "btl_vader"):  # Open MPI 5 and 4
            result[f"OMPI_MCA_{name}_backing_directory"] = job
    return result
