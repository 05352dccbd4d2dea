"""Tool calls in Qwen3-Coder's form: `<function=weather><parameter=city>Oslo</parameter></function>`.

Values are text, with a line break beside either tag that belongs to the form; the tool's schema says what JSON each
becomes. Nothing in a value is escaped, so what ends one is decided by what follows:

- `</parameter>` does if another tag of the call comes next, or the call's end; else it is text of the value;
- without it, `</function>` does if the call's end or another call comes next, and so does the tag of a parameter that
  the schema knows and the call does not have yet (any parameter's at the beginning of a line, where it knows none);
- so does the call's end.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from qwenserve.text.json_repair import string_text
from qwenserve.text.tool_calls import ToolSchemas
from qwenserve.text.tool_values import ParameterTypes, to_json

FUNCTION = "<function="
_FUNCTION_END = "</function>"
_PARAMETER = "<parameter="
_PARAMETER_END = "</parameter>"
# Longer ones are not names.
_NAME_LIMIT = 256
# What is looked at behind a tag, at most: the longest tag and some white space.
_LOOK_AHEAD = 1_000
_NAME = rf"([^<>\n]{{1,{_NAME_LIMIT}}})"
_FUNCTION_TAG = re.compile(rf"{FUNCTION}{_NAME}[>\n]")
_PARAMETER_TAG = re.compile(rf"{_PARAMETER}{_NAME}>")
_SPACES = re.compile(r"\s*")


class XmlCall:
    """See `CallParser`. A value that can only be a string comes out as it is written, any other when it is whole.

    `bare` is for calls without `<tool_call>` around them: nothing but their own end tells that they have ended.
    """

    def __init__(self, tools: ToolSchemas | None, *, bare: bool = False) -> None:
        self.name: str | None = None
        self.complete = False
        self.broken = False
        self.rest = ""
        self._tools = tools
        self._bare = bare
        self._text = ""
        self._at = 0
        self._scanned = 0  # how far a value has been looked through for tags
        self._out: list[str] = []
        self._state: Callable[[], bool] = self._function
        self._known = ""  # the function's name, before it is certain that this is a call
        self._types = ParameterTypes(None)
        self._parameter = ""
        self._given: set[str] = set()
        self._streams = False
        self._begun = False  # whether a value's first character has come
        self._taken = False  # whether any text of the value has been taken
        self._parts: list[str] = []  # what has been taken of a value that comes out whole

    @property
    def in_value(self) -> bool:
        """See `CallParser`."""
        return self._state == self._value and not self._ends_at_end()

    @property
    def lacks_end_only(self) -> bool:
        """See `CallParser`. A function's tag alone is a call where something else says that this is one."""
        if self._state == self._value:
            return self._ends_at_end() == _PARAMETER_END
        if self._state == self._begin:
            return not self._bare and not self._text[self._at :].strip()
        return self._state == self._body and not self._text[self._at :].strip()

    def push(self, text: str) -> str:
        """See `CallParser`."""
        self._scanned = max(self._scanned - self._at, 0)
        self._text = self._text[self._at :] + text
        self._at = 0
        while self._state():
            pass
        return self._take()

    def end(self, closed: bool) -> str:
        """See `CallParser`. Behind `</function>`, and in a call that the model closed, all is there."""
        if self.complete or self.broken:
            return self._take()
        if self._state == self._value:
            ended = self._ends_at_end()
            if ended or closed:
                self._end_value(self._scanned if ended else len(self._text))
                self._state = self._body
                closed |= ended == _FUNCTION_END
            else:
                self._cut_value()
        elif self._state == self._begin and closed and not self._next():
            self.name = self._known
            self._state = self._body
        if closed and self._state == self._body and self.name is not None:
            self._finish()
        else:
            self._break()
        return self._take()

    def _take(self) -> str:
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

    def _next(self) -> str:
        """The next character that is not white space; empty if there is none yet."""
        self._at = _space_end(self._text, self._at)
        return self._text[self._at : self._at + 1]

    def _function(self) -> bool:
        if not self._next():
            return False
        tag = _FUNCTION_TAG.match(self._text, self._at)
        if tag is None:
            return False if _may_become(self._text, self._at, FUNCTION) else self._break()
        name = _name(tag)
        if not name or (self._tools is not None and name not in self._tools):
            return self._break()
        self._known = name
        self._types = ParameterTypes((self._tools or {}).get(name))
        return self._go(self._begin, tag.end())

    def _begin(self) -> bool:
        """Between the function's tag and what shows that this is a call: a parameter or the function's end."""
        if not self._next():
            return False
        text, at = self._text, self._at
        if text.startswith(_FUNCTION_END, at) or _PARAMETER_TAG.match(text, at):
            self.name = self._known
            return self._go(self._body, at)
        return False if _may_become(text, at, _FUNCTION_END, _PARAMETER) else self._break()

    def _body(self) -> bool:
        if not self._next():
            return False
        if self._text.startswith(_FUNCTION_END, self._at):
            self._finish()
            return self._go(self._done, self._at + len(_FUNCTION_END))
        tag = _PARAMETER_TAG.match(self._text, self._at)
        if tag is None:
            return False  # a value ends only where a tag, or its beginning, has been seen
        self._parameter = _name(tag)
        self._streams = self._types.only_text(self._parameter)
        self._begun = self._taken = False
        self._out.append(", " if self._given else "{")
        self._out.append(f'"{string_text(self._parameter)}": ')
        if self._streams:
            self._out.append('"')
        self._given.add(self._parameter)
        return self._go(self._value, tag.end())

    def _value(self) -> bool:
        text = self._text
        while True:
            at = text.find("<", self._scanned)
            if at < 0:
                self._scanned = len(text)
                self._add(len(text))
                return False
            self._scanned = at
            ends = self._ends_value(at)
            if ends is None:
                self._add(at)
                return False
            if ends:
                self._end_value(at)
                self._at += len(_PARAMETER_END) if text.startswith(_PARAMETER_END, self._at) else 0
                return self._go(self._body, self._at)
            self._scanned = at + 1

    def _ends_value(self, at: int) -> bool | None:
        """Whether a value ends at the `<` at `at`; None while that is not known."""
        text = self._text
        if text.startswith(_PARAMETER_END, at):
            ahead = text[at + len(_PARAMETER_END) : at + _LOOK_AHEAD].lstrip()
            if ahead.startswith(_FUNCTION_END) or _PARAMETER_TAG.match(ahead):
                return True
            return None if len(text) < at + _LOOK_AHEAD and _may_become(ahead, 0, _FUNCTION_END, _PARAMETER) else False
        if text.startswith(_FUNCTION_END, at):
            ahead = text[at + len(_FUNCTION_END) : at + _LOOK_AHEAD].lstrip()
            if self._bare or ahead.startswith(FUNCTION):
                return True
            return None if len(text) < at + _LOOK_AHEAD and _may_become(ahead, 0, FUNCTION) else False
        tag = _PARAMETER_TAG.match(text, at)
        if tag is None:
            return None if _may_become(text, at, _PARAMETER_END, _FUNCTION_END, _PARAMETER) else False
        name = _name(tag)
        if name in self._given or not self._types.describes(name):
            return False
        return self._types.named or self._at_line_start(at)

    def _ends_at_end(self) -> str:
        """The tag that ends the value if the call ends here; empty if there is none."""
        text, at = self._text, self._scanned
        for tag in (_PARAMETER_END, _FUNCTION_END):
            if text.startswith(tag, at) and _space_end(text, at + len(tag)) == len(text):
                return tag
        return ""

    def _at_line_start(self, at: int) -> bool:
        # A line break stays where it is until text follows it.
        return self._text[at - 1] == "\n" if at > self._at else not self._taken

    def _add(self, end: int) -> None:
        """Takes text of the value, up to the line break that may be the form's."""
        text = self._text
        if not self._begun and end > self._at:
            self._begun = True
            self._at += text[self._at] == "\n"
        if end > self._at and text[end - 1] == "\n":
            end -= 1
        if end > self._at:
            self._taken = True
            piece = text[self._at : end]
            if self._streams:
                self._out.append(string_text(piece))
            else:
                self._parts.append(piece)
            self._at = end

    def _end_value(self, end: int) -> None:
        """Takes the rest of the value, which ends at `end`."""
        self._add(end)
        self._at = end
        if self._streams:
            self._out.append('"')
        else:
            self._out.append(to_json(self._types.value(self._parameter, "".join(self._parts))))
            self._parts.clear()

    def _cut_value(self) -> None:
        """Takes the rest of a value that was cut short, and leaves its JSON open."""
        self._add(len(self._text))
        if self._streams:
            self._out.append(string_text(self._text[self._at :]))
        else:
            text = "".join(self._parts) + self._text[self._at :]
            value = self._types.value(self._parameter, text)
            self._out.append(f'"{string_text(text)}' if isinstance(value, str) else to_json(value))
        self._at = len(self._text)

    def _finish(self) -> None:
        self._out.append("}" if self._given else "{}")
        self.complete = True

    def _done(self) -> bool:
        if self._next():
            self.rest = self._text[self._at :]
        return False


def _name(tag: re.Match[str]) -> str:
    return tag.group(1).strip().strip("\"'")


def _space_end(text: str, at: int) -> int:
    found = _SPACES.match(text, at)
    return at if found is None else found.end()


def _may_become(text: str, at: int, *tags: str) -> bool:
    """Whether the text from `at` on is the beginning of one of these tags, a name without its end included."""
    rest = text[at : at + _NAME_LIMIT + len(_PARAMETER) + 1]
    for tag in tags:
        if tag.startswith(rest):
            return True
        if tag.endswith("=") and rest.startswith(tag):
            name = rest[len(tag) :]
            return len(name) <= _NAME_LIMIT and not any(character in name for character in "<>\n")
    return False
