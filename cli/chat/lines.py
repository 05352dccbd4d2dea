"""Where a chat's questions come from: a terminal with editing and history, or a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from pathlib import Path
from typing import Protocol, TextIO

_FENCE = '"""'


class Questions(Protocol):
    """Gives what the user says, one question or command at a time."""

    async def next(self) -> str | None:
        """Returns the next one; None at the end. Raises KeyboardInterrupt for ctrl-C."""


class PipedQuestions:
    """One question a line; lines between two lines of triple quotes belong together."""

    def __init__(self, source: TextIO | None = None) -> None:
        self._source = source

    async def next(self) -> str | None:
        """Reads the next question."""
        line = await self._line()
        if not line:
            return None
        if line.strip() != _FENCE:
            return line.rstrip("\n")
        lines: list[str] = []
        while (line := await self._line()) and line.strip() != _FENCE:
            lines.append(line)
        return "".join(lines).rstrip("\n")

    async def _line(self) -> str:
        source = self._source = self._source or _own_stdin()
        loop = asyncio.get_running_loop()
        read: asyncio.Future[str] = loop.create_future()

        def settle(line: str, error: Exception | None) -> None:
            if read.cancelled():
                return
            if error is not None:
                read.set_exception(error)
            else:
                read.set_result(line)

        def work() -> None:
            line, error = "", None
            try:
                line = source.readline()
            except Exception as raised:  # raised in the task that waits for the line
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: no task waits any more
                loop.call_soon_threadsafe(settle, line, error)

        # Not the loop's own threads: it would wait for a line that may never come before the program can end.
        threading.Thread(target=work, name="questions", daemon=True).start()
        return await read


def _own_stdin() -> TextIO:
    """Standard input as a file of our own: a thread that reads `sys.stdin` as Python ends makes it abort."""
    return open(sys.stdin.fileno(), encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False)


class TerminalQuestions:
    """A prompt with editing, history in a file and completion of commands."""

    def __init__(self, history: Path, commands: list[str]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.key_binding.key_processor import KeyPressEvent

        history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        history.touch(mode=0o600, exist_ok=True)
        keys = KeyBindings()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(str(history)),
            key_bindings=keys,
            completer=WordCompleter([f"/{name}" for name in commands], sentence=True),
            complete_while_typing=False,
            prompt_continuation="  ",
        )

    async def next(self) -> str | None:
        """Shows the prompt and returns what was typed."""
        try:
            text = await self._session.prompt_async("> ")
            if text.strip() != _FENCE:
                return text
            lines: list[str] = []
            while (line := await self._session.prompt_async("  ")).strip() != _FENCE:
                lines.append(line)
        except EOFError:
            return None
        return "\n".join(lines)
