"""Calls in JSON without `<tool_call>` around them.

Models forget the tag now and then. A whole answer of such calls, `{"name": "weather", "arguments": {…}}` and nothing
else, is taken for the calls that it was meant to be; so is one whose closing tag alone is there. JSON that is an answer
must stay one, so everything has to fit: it begins the content, each object names a function of the request, has its
arguments as an object, and no other keys but `id` and `type`. Until it is known which of both it is, the text is held
back; with the first key or name that does not fit it comes out.
"""

from __future__ import annotations

from qwenserve.text.hermes_call import HermesCall
from qwenserve.text.tool_calls import ToolSchemas, WrittenCall

# What may begin such an answer: a call, or a list of calls.
BEGINNINGS = ("{", "[")
_BETWEEN = " \t\r\n,]"


class UntaggedCalls:
    """Reads an answer's content from its beginning on, for as long as there are calls and nothing else."""

    __slots__ = ("_arguments", "_parser", "_raw", "_tools", "calls")

    def __init__(self, tools: ToolSchemas) -> None:
        self._tools = tools
        self._raw: list[str] = []
        self._parser: HermesCall | None = None
        self._arguments: list[str] = []
        self.calls: list[WrittenCall] = []

    @property
    def text(self) -> str:
        """All that was taken, as it was written."""
        return "".join(self._raw)

    @property
    def in_value(self) -> bool:
        """Whether a marker here is text of an argument."""
        return self._parser is not None and self._parser.in_value

    @property
    def whole(self) -> bool:
        """Whether there are calls, and the last one is whole."""
        return bool(self.calls) and self._parser is None

    def push(self, text: str) -> bool:
        """Takes text; false where it shows that this is no such answer."""
        self._raw.append(text)
        while True:
            if self._parser is None:
                text = text.lstrip(_BETWEEN) if self.calls else text
                if not text:
                    return True
                if not text.startswith(BEGINNINGS):
                    return False
                self._parser = HermesCall(self._tools, exact=True)
            self._arguments.append(self._parser.push(text))
            if self._parser.broken:
                return False
            if not self._parser.complete:
                return True
            text = self._parser.rest
            self._keep(self._parser)

    def finish(self, *, stopped: bool) -> bool:
        """Takes the answer's end; whether all that was taken is whole calls. `stopped`: the model has ended the answer,
        which closes a call that lacks nothing but its closing brackets.
        """
        parser = self._parser
        if parser is not None and stopped:
            self._arguments.append(parser.end(parser.lacks_end_only))
            if parser.complete and not parser.rest:
                self._keep(parser)
        return self.whole

    def _keep(self, parser: HermesCall) -> None:
        self.calls.append(WrittenCall(parser.name or "", "".join(self._arguments)))
        self._arguments.clear()
        self._parser = None
