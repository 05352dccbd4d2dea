"""One tool call of an answer: a call, or, if it breaks before that is certain, content again."""

from __future__ import annotations

from typing import NamedTuple

from qwenserve.text.hermes_call import HermesCall
from qwenserve.text.tool_calls import CallParser, ToolSchemas
from qwenserve.text.xml_call import XmlCall


class CallPiece(NamedTuple):
    """What a piece of a call's text came to, in this order."""

    name: str | None = None
    arguments: str = ""
    content: str = ""


class CallReader:
    """Reads one call in either form, whichever it begins as: models that were taught one write the other now and then.

    `opening` is the call's text so far, up to and with `<tool_call>`. A `bare` call has no tags around it; one that
    comes `behind` another between the same tags has no opening of its own. Until the name is sent everything is kept,
    so that a call which breaks comes back as it was generated.

    `started` is set once the name is out, `complete` once the call is whole. `ended` says that the text goes on behind
    the call, with `rest`.
    """

    __slots__ = (
        *("_given_up", "_parser", "_raw", "_tools", "bare", "behind", "broken", "complete"),
        *("ended", "rest", "started"),
    )

    def __init__(
        self, tools: ToolSchemas | None, opening: str = "", *, bare: bool = False, behind: bool = False
    ) -> None:
        self.bare = bare
        self.behind = behind
        self._tools = tools
        self._parser: CallParser | None = None
        self._raw = [opening]
        self._given_up = False
        self.started = False
        self.complete = False
        self.broken = False
        self.ended = False
        self.rest = ""

    @property
    def in_value(self) -> bool:
        """Whether a marker here is text of an argument."""
        return self._parser is not None and not self._given_up and self._parser.in_value

    def push(self, text: str) -> CallPiece:
        """Takes more of the call. Nothing more may be pushed once it has ended."""
        if self._given_up:
            return CallPiece(content=text)
        if not self.started:
            self._raw.append(text)
        parser = self._parser
        if parser is None:
            begin = text.lstrip()
            if not begin:
                return CallPiece()
            self._parser = parser = XmlCall(self._tools, bare=self.bare) if begin[0] == "<" else HermesCall(self._tools)
        piece = self._told(parser, parser.push(text))
        if parser.complete and (self.bare or parser.rest):
            self.ended = True
            self.rest = parser.rest
        return piece

    def end(self, *, closed: bool, tag: bool, stopped: bool = False) -> CallPiece:
        """Takes the end: `closed` by the model, with the closing `tag` or by opening another call. `stopped`: the model
        has ended its answer, which closes a call that lacks nothing else.
        """
        closing = "</tool_call>" if tag and not self.behind else ""
        if self._given_up or self._parser is None:
            self.broken = True
            return CallPiece(content=("" if self._given_up else "".join(self._raw)) + closing)
        closed |= stopped and self._parser.lacks_end_only
        piece = self._told(self._parser, self._parser.end(closed))
        if self.started:
            return piece._replace(content=self._parser.rest) if self.complete else piece
        return CallPiece(content=piece.content + closing)

    def _told(self, parser: CallParser, arguments: str) -> CallPiece:
        name = None
        if parser.name is not None and not self.started:
            self.started = True
            name = parser.name
            self._raw.clear()
        self.complete = parser.complete
        if not parser.broken:
            return CallPiece(name, arguments)
        self.broken = self._given_up = True
        return CallPiece(name, arguments, "" if self.started else "".join(self._raw))
