"""Runs a planned deployment without a terminal: `python -m qwenserve.cli.background FOLDER`.

`qwenserve up --detach` starts it. Its own output goes to the deployment's `supervisor` log.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from qwenserve.cli.errors import CommandError
from qwenserve.cli.output import Output
from qwenserve.cli.plan import DeploymentPlan
from qwenserve.cli.state import Deployment
from qwenserve.cli.up import Prepared, run_foreground
from qwenserve.runtime.config import LogConfig
from qwenserve.runtime.log_file import LogFile


def main(folder: Path) -> int:
    """Runs the plan that lies in a deployment's folder; returns the exit code."""
    deployment = Deployment(folder)
    plan = DeploymentPlan.model_validate_json(deployment.plan_file.read_bytes())
    deployment.plan_file.unlink()  # it may hold keys
    log = LogFile(deployment.log_file("supervisor"), LogConfig().max_bytes)
    with contextlib.suppress(OSError):  # it was started with its output going there anyway
        log.open()
    try:
        return run_foreground(Prepared(plan, deployment, ""), Output())
    except CommandError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
