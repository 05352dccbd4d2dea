"""Where a chat's questions come from: a terminal with editing and history, or a pipe."""

from __future__ import annotations

import asyncio
import sys
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
        self._source: TextIO = source if source is not None else sys.stdin

    async def next(self) -> str | None:
        """Reads the next question."""
        line = await asyncio.to_thread(self._source.readline)
        if not line:
            return None
        if line.strip() != _FENCE:
            return line.rstrip("\n")
        lines: list[str] = []
        while (line := await asyncio.to_thread(self._source.readline)) and line.strip() != _FENCE:
            lines.append(line)
        return "".join(lines).rstrip("\n")


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
