"""A state directory for each test session, and the `qwenserve` command as a process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0


class CommandLine:
    """Runs `qwenserve` with a state directory of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("QWENSERVE_")},
            "QWENSERVE_STATE_DIR": str(state),
        }

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """Returns what a command printed, errors included. Its exit code must be `code`."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.state.parent,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Starts a command whose output is read line by line."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.state.parent,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("qwenserve")), *arguments]


@pytest.fixture(scope="module")
def qwenserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    run = CommandLine(tmp_path_factory.mktemp("cli") / "state")
    yield run
    for row in run("ps").splitlines()[1:]:
        run("stop", row.split()[1], "--force")
