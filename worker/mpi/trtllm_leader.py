"""What TensorRT-LLM's launcher runs on rank 0: the worker, and then the end of the other ranks, whatever its code.

That launcher stops its servers only where the program that it runs returns 0, and returns a code of its own; so this
always does, after it has noted the worker's code where our launcher looks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qwenserve.worker.main import main
from qwenserve.worker.mpi.command_line import CONFIG_VARIABLE, JOB_VARIABLE
from qwenserve.worker.mpi.job import JobDirectory

_STOP = ("python3", "-m", "tensorrt_llm.llmapi.mgmn_leader_node", "--action", "stop")
_STOP_S = 10.0


def lead() -> int:
    """Runs the worker; returns 0."""
    job = JobDirectory(Path(os.environ[JOB_VARIABLE]))
    job.note("pid", os.getpid())
    config = os.environ.get(CONFIG_VARIABLE, "")
    code = 1
    try:
        code = main(["--config", config] if config else [])
    finally:
        try:
            subprocess.run(_STOP, timeout=_STOP_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"the other ranks were not told to stop: {error}", file=sys.stderr)  # noqa: T201
        job.note("code", code)
    return 0


if __name__ == "__main__":
    sys.exit(lead())
