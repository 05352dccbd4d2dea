"""The chat on a terminal: a pseudo-terminal types, as a person would."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from qwenserve.cli.state import StateDirectory
from tests.cli.conftest import CommandLine

pytestmark = pytest.mark.timeout(120)

_CTRL_C, _CTRL_D = "\x03", "\x04"

# The program gets the pseudo-terminal as its controlling one: only then does ctrl-C become a signal.
_WITH_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

# The prompt begins with switching bracketed paste on.
_PROMPT = r"\x1b\[\?2004h[^\n]*>"
_STEP_S = 20.0


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WITH_TERMINAL, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            # Without it the program asks the terminal where the cursor is, and nobody would answer.
            env={**environment, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            start_new_session=True,
        )
        os.close(slave)
        self._seen = ""

    def type(self, text: str) -> None:
        """Presses keys."""
        os.write(self._master, text.encode())

    def expect(self, pattern: str) -> str:
        """Waits until the screen has shown `pattern`; returns what came up to its end. Later waits look after it."""
        deadline = time.monotonic() + _STEP_S
        while (found := re.search(pattern, self._seen, re.DOTALL)) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} was not shown, but: {self._seen[-2000:]!r}"
            if select.select([self._master], [], [], left)[0]:
                self._seen += self._read()
        before, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return before

    def end(self) -> int:
        """Waits for the program to leave; returns its exit code."""
        return self.process.wait(_STEP_S)

    def close(self) -> None:
        """Ends the program if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def _read(self) -> str:
        try:
            return os.read(self._master, 65536).decode("utf-8", "replace")
        except OSError:  # the program has left
            raise AssertionError(f"the program ended: {self._seen[-2000:]!r}") from None


@pytest.fixture(scope="module")
def deployment(qwenserve: CommandLine) -> Iterator[CommandLine]:
    qwenserve(
        "up", "--detach", "--engine", "simulated", "--http-port", "0", "--grpc-port", "0",
        "--set", "worker.simulated.step_ms=5",
    )  # fmt: skip
    yield qwenserve
    qwenserve("stop")


@pytest.fixture
def terminal(deployment: CommandLine) -> Iterator[Terminal]:
    terminal = Terminal(deployment.command("chat"), deployment.environment)
    yield terminal
    terminal.close()


def test_interrupt_stops_the_answer_and_not_the_program(terminal: Terminal, deployment: CommandLine):
    """After ctrl-C the answer ends, and the next question is answered."""
    terminal.expect(_PROMPT)
    terminal.type("tell me a long story\r")
    terminal.expect("[a-z]{50}")
    terminal.type(_CTRL_C)
    terminal.expect(r"\(stopped\).*" + _PROMPT)

    terminal.type("/params max_tokens=4\r")
    terminal.expect(r"\[2mmax_tokens=4.*" + _PROMPT)
    terminal.type("short now\r")
    terminal.expect(r"[a-z]{4}.*length limit.*" + _PROMPT)

    terminal.type(_CTRL_D)
    assert terminal.end() == 0


def test_interrupt_at_the_prompt_explains(terminal: Terminal):
    """Ctrl-C with nothing to stop says how to leave."""
    terminal.expect(_PROMPT)
    terminal.type("half a quest" + _CTRL_C)
    terminal.expect("ctrl-D leaves.*" + _PROMPT)
    terminal.type("/exit\r")

    assert terminal.end() == 0


def test_history_is_kept_for_its_owner(terminal: Terminal, deployment: CommandLine):
    """What was typed can be brought back by the next chat, and read by nobody else."""
    terminal.expect(_PROMPT)
    terminal.type("/system be kind\r")
    terminal.expect("system message: be kind.*" + _PROMPT)
    terminal.type(_CTRL_D)
    assert terminal.end() == 0

    history = StateDirectory(deployment.state).history_file
    assert "+/system be kind" in history.read_text().splitlines()
    assert history.stat().st_mode & 0o777 == 0o600
