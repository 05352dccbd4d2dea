"""Tool calls written as JSON: `{"name": "weather", "arguments": {"city": "Oslo"}}`.

The keys come in either order; `parameters` is another name for `arguments`, and both may be a JSON text in quotation
marks. Keys beside them are passed over, but a call without arguments has no others than `id` and `type`: what it
means to pass is under an unknown name. Missing and null arguments are `{}`. Brackets of a list around calls are passed
over as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from qwenserve.text.json_repair import MAX_READ, MAX_REPAIRED, JsonRepair, without_surrogates
from qwenserve.text.tool_calls import ToolSchemas

_STRING_STEP = {'"': re.compile(r'["\\]'), "'": re.compile(r"['\\]")}
_SCALAR_END = re.compile(r"[\s,}]")
_ARGUMENTS = ("arguments", "parameters")
_WITHOUT_MEANING = ("id", "type")
_BETWEEN_MEMBERS = ", \t\n\r"
# Brackets that models write once too often.
_EXTRA_CLOSERS = "}]"


class HermesCall:
    """See `CallParser`. Arguments come out as the model wrote them, where that is JSON; see `text.json_repair`.

    Each state is a method that reads on from `_at` and returns whether it got anywhere; when one needs more text, the
    next piece brings it back. What a state has read of a string or a word is in `_held`, so that nothing is read twice.

    An `exact` call has its arguments as an object, and no keys that would be passed over.
    """

    def __init__(self, tools: ToolSchemas | None, *, exact: bool = False) -> None:
        self.name: str | None = None
        self.complete = False
        self.broken = False
        self.rest = ""
        self._tools = tools
        self._exact = exact
        self._in_list = False
        self._text = ""
        self._at = 0
        self._held: list[str] = []
        self._out: list[str] = []
        self._state: Callable[[], bool] = self._open
        self._known: str | None = None  # the name, before it is certain that this is a call
        self._key = ""
        self._quote = '"'
        self._nested = JsonRepair()
        self._has_arguments = False
        self._strange_key = False
        self._tail: list[str] | None = None  # what has come behind name and arguments, once both are there

    @property
    def in_value(self) -> bool:
        """See `CallParser`."""
        if self._state == self._read_arguments:
            return self._nested.in_string
        return self._state == self._read_string and self._key in _ARGUMENTS

    @property
    def lacks_end_only(self) -> bool:
        """See `CallParser`."""
        return self._state == self._read_arguments and self._known is not None and self._nested.lacks_end_only

    def push(self, text: str) -> str:
        """See `CallParser`."""
        if self._tail is not None:
            self._tail.append(text)
        self._text = self._text[self._at :] + text
        self._at = 0
        while self._state():
            pass
        return self._take()

    def end(self, closed: bool) -> str:
        """See `CallParser`."""
        if self.complete or self.broken:
            return self._take()
        if self._state == self._read_arguments:
            if closed and self._known is not None:
                self._out.append(self._nested.close())
                self.complete = True
            else:
                self._out.append(self._nested.cut())
                self.broken = True
        elif self._has_arguments and self._known is not None:
            self.complete = True
            self.rest = "".join(self._tail or ()).lstrip(_BETWEEN_MEMBERS)
        else:
            self._break()
        return self._take()

    def _take(self) -> str:
        """Arguments to hand out. Held until it is certain that this is a call."""
        if self.name is None or not self._out:
            return ""
        text = "".join(self._out)
        self._out.clear()
        return text

    def _break(self) -> bool:
        # Arguments have no break, so where they have begun what is wrong is behind them.
        self.complete = self.name is not None
        self.broken = not self.complete
        self.rest = "".join(self._tail or ()).lstrip(_BETWEEN_MEMBERS)
        return False

    def _break_exact(self) -> bool:
        """What follows the arguments shows that this is no call."""
        self.complete, self.broken = False, True
        return False

    def _go(self, state: Callable[[], bool], at: int) -> bool:
        self._state = state
        self._at = at
        return True

    def _go_on(self, at: int) -> bool:
        """Goes on to the next member of the object."""
        if self.name is not None and self._tail is None:
            self._tail = [self._text[at:]]
        return self._go(self._member, at)

    def _begin_arguments(self) -> None:
        self._has_arguments = True
        self.name = self._known  # where it is known already

    def _take_held(self) -> str:
        text = "".join(self._held)
        self._held.clear()
        return text

    def _next(self) -> str:
        """The next character that is not white space; empty if there is none yet."""
        text, at = self._text, self._at
        while at < len(text) and text[at].isspace():
            at += 1
        self._at = at
        return text[at : at + 1]

    def _open(self) -> bool:
        found = self._next()
        if found == "{":
            return self._go(self._member, self._at + 1)
        if (found == "[" and not self._in_list) or found == ",":  # a list of calls, or its next one
            self._in_list = True
            return self._go(self._open, self._at + 1)
        return self._break() if found else False

    def _member(self) -> bool:
        found = self._next()
        if not found:
            return False
        if found in _STRING_STEP:
            self._quote = found
            self._key = ""
            return self._go(self._read_string, self._at + 1)
        if found == ",":
            return self._go(self._member, self._at + 1)
        if found != "}" or self._known is None or (self._strange_key and not self._has_arguments):
            return self._break()
        if not self._has_arguments:
            if self._exact:
                return self._break()
            self._begin_arguments()
            self._out.append("{}")
        self.complete = True
        return self._go(self._done, self._at + 1)

    def _colon(self) -> bool:
        found = self._next()
        if found == ":":
            return self._go(self._value, self._at + 1)
        return self._break() if found else False

    def _value(self) -> bool:
        found = self._next()
        if not found:
            return False
        arguments = self._key in _ARGUMENTS and not self._has_arguments
        if self._exact and not arguments and found in "{[":
            return self._break()
        if self._key == "name" and found not in _STRING_STEP:
            return self._break()
        if found in _STRING_STEP:
            self._quote = found
            return self._go(self._read_string, self._at + 1)
        if found in "{[":
            if arguments and found == "[":
                return self._break()
            if arguments:
                self._begin_arguments()
            self._nested = JsonRepair()
            return self._go(self._read_arguments if arguments else self._pass_over, self._at)
        return self._go(self._scalar, self._at)

    def _read_string(self) -> bool:
        """A key, or a value in quotation marks, from behind the first of these on."""
        if not self._hold_string():
            return False
        value = _string_value(self._quote, self._take_held())
        if value is None:
            return self._break()
        if not self._key:
            self._key = value
            self._strange_key |= value != "name" and value not in _ARGUMENTS and value not in _WITHOUT_MEANING
            if self._exact and (self._strange_key or (value in _ARGUMENTS and self._has_arguments)):
                return self._break_exact()
            return self._go(self._colon, self._at) if value else self._break()
        if self._key == "name":
            if self._known is not None or (self._tools is not None and value not in self._tools):
                return self._break()
            self._known = value
            if self._has_arguments:
                self.name = value
        elif self._key in _ARGUMENTS and not self._has_arguments:
            arguments = None if self._exact else _whole_object(value)
            if arguments is None:
                return self._break()
            self._begin_arguments()
            self._out.append(arguments)
        return self._go_on(self._at)

    def _hold_string(self) -> bool:
        """Holds the text up to the closing quotation mark, and passes that; false while it is not there."""
        text = self._text
        while True:
            found = _STRING_STEP[self._quote].search(text, self._at)
            if found is None:
                self._held.append(text[self._at :])
                self._at = len(text)
                return False
            if found.group() == self._quote:
                self._held.append(text[self._at : found.start()])
                self._at = found.end()
                return True
            if found.end() == len(text):  # a backslash whose partner is still to come
                return False
            self._held.append(text[self._at : found.end() + 1])
            self._at = found.end() + 1

    def _scalar(self) -> bool:
        end = _SCALAR_END.search(self._text, self._at)
        at = len(self._text) if end is None else end.start()
        self._held.append(self._text[self._at : at])
        self._at = at
        if end is None:
            return False
        word = self._take_held()
        if self._key in _ARGUMENTS and not self._has_arguments and word not in ("null", "None", ""):
            return self._break()
        return self._go_on(at)

    def _read_arguments(self) -> bool:
        self._out.append(self._nested.push(self._text[self._at :]))
        return self._behind_nested()

    def _pass_over(self) -> bool:
        self._nested.push(self._text[self._at :])
        return self._behind_nested()

    def _behind_nested(self) -> bool:
        self._at = len(self._text)
        return self._nested.ended and self._go_on(self._at - len(self._nested.rest))

    def _done(self) -> bool:
        while (found := self._next()) and found in _EXTRA_CLOSERS:
            self._at += 1
        self.rest = self._text[self._at :]
        return False


def _string_value(quote: str, text: str) -> str | None:
    """What a string in quotation marks of either kind stands for; None if it stands for nothing."""
    if len(text) > MAX_READ:
        return None
    if quote == '"' and len(text) > MAX_REPAIRED:
        value = _read(f'"{text}"', strict=False)
        return without_surrogates(value) if isinstance(value, str) else None
    if len(text) > MAX_REPAIRED:
        return None
    repair = JsonRepair()
    valid = repair.push(f"[{quote}{text}{quote}]")
    if not repair.ended or repair.guessed:
        return None
    value = json.loads(valid)[0]
    return without_surrogates(value) if isinstance(value, str) else None


def _whole_object(text: str) -> str | None:
    """Arguments that were written as a text: the object in it; None if there is none."""
    text = text.strip()
    if not text or text == "null":
        return "{}"
    if not text.startswith("{"):
        return None
    if len(text) > MAX_REPAIRED:
        return without_surrogates(text) if isinstance(_read(text, strict=True), dict) else None
    repair = JsonRepair()
    valid = repair.push(text) + repair.close()
    return None if repair.rest.strip(_EXTRA_CLOSERS + " \t\n\r") else valid


def _read(text: str, *, strict: bool) -> Any:
    """What a JSON text stands for; None if it is none. Without `strict` strings may hold line breaks as they are."""
    try:
        return json.loads(text, strict=strict, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")
