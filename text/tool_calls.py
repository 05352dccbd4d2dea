"""The two ways in which Qwen models write a tool call, each read by one incremental parser.

    hermes   {"name": "weather", "arguments": {"city": "Oslo"}}
    xml      <function=weather><parameter=city>Oslo</parameter></function>

A parser gets the text between `<tool_call>` and `</tool_call>` in any pieces. `push` and `end` return further text
of the call's arguments, which is a JSON object; `name` is set as soon as the function's name is whole, and no
arguments come out before it. What is wrong with a call never raises: `broken` is set, `rest` holds the text from
the break on, and whoever drives the parser decides what becomes of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from qwenserve.text.tool_values import parse_value

# Function name → JSON schema of its parameters, or None where any name will do.
ToolSchemas = Mapping[str, Mapping[str, Any]]


class CallParser(Protocol):
    """Reads one call."""

    name: str | None
    complete: bool
    broken: bool
    rest: str

    def push(self, text: str) -> str:
        """Takes more of the call; returns more of its arguments."""

    def end(self, closed: bool) -> str:
        """Takes the call's end, by `</tool_call>` if `closed`; returns what is left of its arguments."""


def tool_schemas(tools: Sequence[Mapping[str, Any]] | None) -> dict[str, Mapping[str, Any]]:
    """What parsers need of a request's tools, given in OpenAI's form or as bare functions."""
    schemas: dict[str, Mapping[str, Any]] = {}
    for tool in tools or ():
        function = tool.get("function", tool)
        schemas[function["name"]] = function.get("parameters") or {}
    return schemas


class _Parser:
    """Runs states over the text that is still to be read.

    A state is a method that reads on from `_at` and returns whether it got anywhere; when one needs more text, the
    next piece brings it back. `_scanned` is how far a state has looked without finding its end, so that long
    values are not searched again with every piece.
    """

    def __init__(self, tools: ToolSchemas | None) -> None:
        self.name: str | None = None
        self.complete = False
        self.broken = False
        self.rest = ""
        self._tools = tools
        self._text = ""
        self._at = 0
        self._scanned = 0
        self._out: list[str] = []
        self._state: Callable[[], bool]

    def push(self, text: str) -> str:
        if self.broken:
            self.rest += text
            return ""
        # What has been read goes; a state's search continues where it was.
        self._scanned = max(self._scanned - self._at, 0)
        self._text = self._text[self._at :] + text
        self._at = 0
        while self._state():
            pass
        return self._take()

    def _take(self) -> str:
        """Arguments to hand out. Held until the name is known, since a call starts with its name."""
        if self.name is None or not self._out:
            return ""
        text = "".join(self._out)
        self._out.clear()
        return text

    def _break(self) -> bool:
        self.broken = True
        self.rest = self._text[self._at :]
        return False

    def _go(self, state: Callable[[], bool], at: int) -> bool:
        self._state = state
        self._at = self._scanned = at
        return True

    def _named(self, name: str) -> bool:
        """Takes the function's name; false for one that the request does not know."""
        if self.name is not None or (self._tools is not None and name not in self._tools):
            return False
        self.name = name
        return True

    def _next(self) -> str:
        """The next character that is not white space; empty if there is none yet."""
        text = self._text
        at = self._at
        while at < len(text) and text[at].isspace():
            at += 1
        self._at = at
        return text[at : at + 1]

    def _done(self) -> bool:
        return self._break() if self._next() else False


_STRING_STEP = re.compile(r'["\\]')
_NESTED_STEP = re.compile(r'["{}\[\]]')
_SCALAR_END = re.compile(r"[\s,}]")
_CLOSER = {"{": "}", "[": "]"}


class HermesCall(_Parser):
    """One JSON object with `name` and `arguments`, in either order; other keys are passed over.

    Arguments come out as the model wrote them, character for character. Missing or null arguments are `{}`; arguments
    written as a JSON string are unwrapped.
    """

    def __init__(self, tools: ToolSchemas | None) -> None:
        super().__init__(tools)
        self._state = self._open
        self._key = ""
        self._closers: list[str] = []
        self._in_string = False
        self._sending = False
        self._has_arguments = False

    def end(self, closed: bool) -> str:
        """An object that is not whole is broken; only its own last brace may be missing, in a call that was closed."""
        if not self.complete and not self.broken:
            whole = closed and self._has_arguments and self._state == self._member and not self._next()
            if whole and self.name is not None:
                self.complete = True
            else:
                self._break()
        if self.complete and not self._has_arguments and self.name is not None:
            self._has_arguments = True
            return self._take() + "{}"
        return self._take()

    def _open(self) -> bool:
        found = self._next()
        if found == "{":
            return self._go(self._member, self._at + 1)
        return self._break() if found else False

    def _member(self) -> bool:
        found = self._next()
        if found == '"':
            return self._go(self._read_key, self._at)
        if found == ",":
            return self._go(self._member, self._at + 1)
        if found == "}":
            if self.name is None:
                return self._break()
            self.complete = True
            return self._go(self._done, self._at + 1)
        return self._break() if found else False

    def _read_key(self) -> bool:
        end = self._string_end()
        if end is None:
            return False
        key = _string_value(self._text[self._at : end])
        if key is None:
            return self._break()
        self._key = key
        return self._go(self._colon, end)

    def _colon(self) -> bool:
        found = self._next()
        if found == ":":
            return self._go(self._value, self._at + 1)
        return self._break() if found else False

    def _value(self) -> bool:
        found = self._next()
        if not found:
            return False
        arguments = self._key == "arguments" and not self._has_arguments
        if self._key == "name" and found != '"':
            return self._break()
        if found == '"':
            return self._go(self._read_string, self._at)
        if found in _CLOSER:
            self._sending = arguments
            self._closers.clear()
            if arguments and found == "[":
                return self._break()
            self._has_arguments |= arguments
            return self._go(self._nested, self._at)
        return self._go(self._scalar, self._at)

    def _read_string(self) -> bool:
        end = self._string_end()
        if end is None:
            return False
        if self._key in ("name", "arguments"):
            value = _string_value(self._text[self._at : end])
            if value is None:
                return self._break()
            if self._key == "name":
                if not self._named(value):
                    return self._break()
            elif not self._has_arguments:
                self._has_arguments = True
                self._out.append(value if value.strip() else "{}")
        return self._go(self._member, end)

    def _scalar(self) -> bool:
        end = _SCALAR_END.search(self._text, self._scanned)
        if end is None:
            self._scanned = len(self._text)
            return False
        if self._key == "arguments" and not self._has_arguments and self._text[self._at : end.start()] != "null":
            return self._break()
        return self._go(self._member, end.start())

    def _nested(self) -> bool:
        """An object or array: passes it on or over, looking only at what opens, closes and quotes."""
        while True:
            if self._in_string:
                end = self._string_end()
                if end is None:
                    # Up to a backslash whose partner is still to come.
                    return self._pass(self._scanned) and False
                self._in_string = False
                self._pass(end)
                continue
            found = _NESTED_STEP.search(self._text, self._at)
            if found is None:
                return self._pass(len(self._text)) and False
            character, end = found.group(), found.end()
            if character == '"':
                self._pass(end)
                self._in_string = True
            elif character in _CLOSER:
                self._closers.append(_CLOSER[character])
                self._pass(end)
            elif self._closers.pop() != character:
                self._pass(end - 1)
                return self._break()
            else:
                self._pass(end)
                if not self._closers:
                    return self._go(self._member, end)

    def _pass(self, end: int) -> bool:
        if self._sending and end > self._at:
            self._out.append(self._text[self._at : end])
        self._at = self._scanned = end
        return True

    def _string_end(self) -> int | None:
        """Where the string ends that `_at` is at the opening quote of, or, in `_nested`, inside of."""
        at = self._scanned
        if at == self._at and not self._in_string:
            at += 1
        while True:
            found = _STRING_STEP.search(self._text, at)
            if found is None:
                self._scanned = len(self._text)
                return None
            if found.group() == '"':
                return found.end()
            at = found.end() + 1
            if at > len(self._text):
                self._scanned = found.start()
                return None


# Longer ones are not names; without a limit, a tag that never closes would be looked at again with every piece.
_NAME_LIMIT = 256
_FUNCTION = "<function="
_PARAMETER = "<parameter="
_PARAMETER_END = "</parameter>"
_FUNCTION_END = "</function>"


class XmlCall(_Parser):
    """Qwen3-Coder's form. Values are text; the tool's schema says what JSON each becomes.

    Arguments come out one parameter at a time: a value's type is only certain once all of it is there.
    """

    def __init__(self, tools: ToolSchemas | None) -> None:
        super().__init__(tools)
        self._state = self._function
        self._parameter = ""
        self._properties: Mapping[str, Any] = {}
        self._count = 0

    def end(self, closed: bool) -> str:
        """Only the closing `</function>` may be missing, and only where the model closed the call itself.

        A text that was cut short comes out as far as it went, its JSON left open.
        """
        if not self.complete and not self.broken:
            if closed and self.name is not None and self._state == self._body and not self._next():
                self._finish()
            else:
                if self._state == self._value:
                    self._cut_value()
                self._break()
        return self._take()

    def _function(self) -> bool:
        name = self._tag(_FUNCTION)
        if not name:
            return self._break() if name is None else False
        if not self._named(name):
            return self._break()
        schema = (self._tools or {}).get(name, {})
        properties = schema.get("properties")
        self._properties = properties if isinstance(properties, Mapping) else {}
        return self._go(self._body, self._text.index(">", self._at) + 1)

    def _body(self) -> bool:
        if not self._next():
            return False
        if self._text.startswith(_FUNCTION_END, self._at):
            self._finish()
            return self._go(self._done, self._at + len(_FUNCTION_END))
        if _FUNCTION_END.startswith(self._text[self._at :]):
            return False
        name = self._tag(_PARAMETER)
        if not name:
            return self._break() if name is None else False
        self._parameter = name
        return self._go(self._value, self._text.index(">", self._at) + 1)

    def _value(self) -> bool:
        end = self._text.find(_PARAMETER_END, self._scanned)
        if end < 0:
            self._scanned = max(self._at, len(self._text) - len(_PARAMETER_END) + 1)
            return False
        # The newlines beside the tags belong to the form, not to the value.
        text = self._text[self._at : end].removeprefix("\n").removesuffix("\n")
        self._write(_json(parse_value(text, self._properties.get(self._parameter))))
        return self._go(self._body, end + len(_PARAMETER_END))

    def _cut_value(self) -> None:
        text = self._text[self._at :].removeprefix("\n")
        if parse_value(text, self._properties.get(self._parameter)) == text:
            self._write(_json(text)[:-1])
        self._at = len(self._text)

    def _write(self, value: str) -> None:
        self._out.append("{" if self._count == 0 else ", ")
        self._out.append(f"{_json(self._parameter)}: {value}")
        self._count += 1

    def _finish(self) -> None:
        self._out.append("}" if self._count else "{}")
        self.complete = True

    def _tag(self, opening: str) -> str | None:
        """The name in the tag at `_at`: empty while it may still become one, None if it cannot."""
        self._next()
        text = self._text[self._at :]
        if not text.startswith(opening):
            return "" if opening.startswith(text) else None
        name, closed, _ = text[len(opening) :].partition(">")
        if len(name) > _NAME_LIMIT or any(character in name for character in "<\n"):
            return None
        return (name.strip() or None) if closed else ""


def new_parser(form: str, tools: ToolSchemas | None) -> CallParser:
    """A parser for one call in the form "hermes" or "xml"."""
    return XmlCall(tools) if form == "xml" else HermesCall(tools)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _string_value(quoted: str) -> str | None:
    try:
        # Models write raw newlines inside strings; that is not worth losing a call for.
        value = json.loads(quoted, strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
