"""Calls that are written inside a thought.

A thought may speak of calls, and they are its text. But models also forget to end a thought: where it never closes, and
nothing follows its calls, these are the answer. Until it is known which of both it is, their text is held back.
"""

from __future__ import annotations

from qwenserve.text.call_reader import CallReader
from qwenserve.text.markers import Marker
from qwenserve.text.tool_calls import ToolSchemas, WrittenCall


class ThoughtCalls:
    """Reads from the first `<tool_call>` in a thought on, for as long as there are calls and nothing else."""

    __slots__ = ("_arguments", "_calls", "_name", "_raw", "_reader", "_tools")

    def __init__(self, tools: ToolSchemas | None) -> None:
        self._tools = tools
        self._raw = [Marker.CALL_OPEN.value]
        self._reader: CallReader | None = CallReader(tools)
        self._name = ""
        self._arguments: list[str] = []
        self._calls: list[WrittenCall] = []

    @property
    def text(self) -> str:
        """All that was taken, as it was written."""
        return "".join(self._raw)

    def push(self, text: str) -> bool:
        """Takes text; false where it shows that the thought goes on."""
        self._raw.append(text)
        reader = self._reader
        if reader is None:
            return text.isspace()
        piece = reader.push(text)
        self._take(piece.name, piece.arguments)
        return not (reader.broken or reader.ended)

    def mark(self, marker: Marker) -> bool:
        """Takes a marker; false where it shows that the thought goes on."""
        reader = self._reader
        if reader is not None and reader.in_value:
            return self.push(marker.value)
        self._raw.append(marker.value)
        opens, closes = marker is Marker.CALL_OPEN, marker is Marker.CALL_CLOSE
        if not (opens or closes) or (reader is None and closes):
            return False
        if reader is not None and not self._end(reader, tag=closes):
            return False
        self._reader = CallReader(self._tools) if opens else None
        return True

    def finish(self, *, stopped: bool) -> list[WrittenCall]:
        """The calls, if all that was taken is whole calls; else none. `stopped`: see `CallReader.end`."""
        if self._reader is not None and not self._end(self._reader, tag=False, stopped=stopped):
            return []
        return self._calls

    def _end(self, reader: CallReader, *, tag: bool, stopped: bool = False) -> bool:
        piece = reader.end(closed=tag, tag=tag, stopped=stopped)
        self._take(piece.name, piece.arguments)
        if not reader.complete or piece.content:
            return False
        self._calls.append(WrittenCall(self._name, "".join(self._arguments)))
        self._arguments.clear()
        return True

    def _take(self, name: str | None, arguments: str) -> None:
        if name is not None:
            self._name = name
        self._arguments.append(arguments)
