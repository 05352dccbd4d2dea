"""One tool call of an answer, from `<tool_call>` to its end: a call, or, if it breaks, content again."""

from __future__ import annotations

import json
from typing import NamedTuple

from qwenserve.text.tool_calls import ToolSchemas, new_parser


class CallPiece(NamedTuple):
    """What a piece of a call's text came to, in this order."""

    name: str | None = None
    arguments: str = ""
    content: str = ""


class CallReader:
    """Reads one call; `opening` is its text so far, up to and with the opening tag.

    Until the name is sent everything is kept, so that a call which breaks comes back as it was generated.
    """

    __slots__ = ("_arguments", "_given_up", "_parser", "_raw", "broken", "complete", "started")

    def __init__(self, form: str, tools: ToolSchemas | None, opening: str) -> None:
        self._parser = new_parser(form, tools)
        self._raw = [opening]
        self._arguments: list[str] = []
        self._given_up = False
        self.started = False
        self.complete = False
        self.broken = False

    def push(self, text: str) -> CallPiece:
        """Takes more of the call."""
        if self._given_up:
            return CallPiece(content=text)
        if not self.started:
            self._raw.append(text)
        return self._advance(self._parser.push(text))

    def end(self, *, closed: bool, tag: bool) -> CallPiece:
        """Takes the end: `closed` by the model, with the closing `tag` or by opening another call."""
        closing = "</tool_call>" if tag else ""
        if self._given_up:
            return CallPiece(content="" if self.started else closing)
        piece = self._advance(self._parser.end(closed))
        self.complete = self._parser.complete
        self.broken |= not self.complete or not _is_json("".join(self._arguments))
        if not self.started:
            return CallPiece(content=piece.content + closing)
        # What an answer that was cut short had begun to write is no text of its own.
        return piece if closed else piece._replace(content="")

    def _advance(self, arguments: str) -> CallPiece:
        parser = self._parser
        name = None
        if parser.name is not None and not self.started:
            self.started = True
            name = parser.name
            self._raw.clear()
        content = ""
        if parser.broken:
            self.broken = self._given_up = True
            if self.started:
                arguments += parser.end(False)
                self.complete = parser.complete
                content = parser.rest
            else:
                content = "".join(self._raw)
        if arguments:
            self._arguments.append(arguments)
        return CallPiece(name, arguments, content)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
