"""JSON as models write it → JSON as parsers read it, piece by piece.

What is valid JSON comes out as it is, character for character. Otherwise:

- raw line breaks and other control characters in strings become escapes; a backslash that begins no escape is one
  that was meant (`\\d` in an expression) and is doubled;
- Python's `None`, `True`, `False`, its single quotes, and commas before a closing bracket become JSON's forms;
- a quotation mark in a string is taken for the string's own text where what follows it cannot follow a string;
- words and numbers that JSON does not know become strings, missing commas, colons and values are put in, brackets that
  nobody opened go, and those that nobody closed are closed.

The last two are guesses at what was meant (`guessed` says so). Time and memory grow with the text and nothing else.
"""

from __future__ import annotations

import json
import re
from enum import Enum

# No sensible arguments are nested deeper; JSON parsers give up at some hundred levels.
MAX_DEPTH = 100
# Characters of a text that is there as a whole and may be repaired: some microseconds each, on the event loop. What
# comes in pieces has no limit.
MAX_REPAIRED = 8_000
# The same for JSON that needs no repair, at a tenth of the time.
MAX_READ = 100_000
# Longer numbers are texts: Python refuses integers of some thousand digits, and no number has so many that count.
_MAX_NUMBER = 300

_SPACE = " \t\n\r"
_CLOSER = {"{": "}", "[": "]"}
_WORDS = {"true": "true", "True": "true", "false": "false", "False": "false", "null": "null", "None": "null"}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
# Most characters that are looked at behind a quotation mark.
_LOOK_AHEAD = 300
_SPACES = re.compile(r"[ \t\n\r]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*[ \t\n\r]*")
# Where a run of a string's text ends.
_STRING_STEP = {'"': re.compile(r'["\\\x00-\x1f]'), "'": re.compile(r"['\"\\\x00-\x1f]")}
_WORD_END = re.compile(r"[,\]}\n\r]")
_KEY_END = re.compile(r"[:,\]}\n\r]")
_HEX = re.compile(r"[0-9a-fA-F]*")
# `json.dumps` would make an encoder in every call.
_encode = json.JSONEncoder(ensure_ascii=False).encode
_SURROGATE = re.compile("[\\ud800-\\udfff]")


def string_text(text: str) -> str:
    """A text as it stands in a JSON string; halves of UTF-16 pairs, which UTF-8 has not, as escapes."""
    return without_surrogates(_encode(text)[1:-1])


def without_surrogates(json_text: str) -> str:
    """JSON text with the halves of UTF-16 pairs in its strings as escapes."""
    if _SURROGATE.search(json_text) is None:
        return json_text
    return _SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", json_text)


class _State(Enum):
    """What comes next."""

    FIRST_VALUE = "a value or the array's end"
    VALUE = "a value"
    FIRST_KEY = "a key or the object's end"
    KEY = "a key"
    COLON = "a colon"
    AFTER = "a comma or an end"
    STRING = "more of a string"
    QUOTED = "what shows whether a quotation mark ended its string"
    WORD = "more of a word that stands for a value"
    BARE_KEY = "more of a key without quotation marks"
    END = "nothing"


# A number or a word has no end of its own.
_BETWEEN = frozenset({_State.FIRST_VALUE, _State.FIRST_KEY, _State.AFTER, _State.WORD, _State.END})


class JsonRepair:
    """Reads one object or array, from its opening bracket on.

    `push` returns what is certain of the valid text; `close` what makes it whole. `ended` is set once the value is
    whole, `rest` then holds what followed it in the last piece. `guessed` tells that the text can be read otherwise.
    """

    __slots__ = (
        *("_at", "_held", "_key", "_out", "_pending", "_quote", "_stack", "_state", "_text"),
        *("ended", "guessed", "rest"),
    )

    def __init__(self) -> None:
        self.ended = False
        self.guessed = False
        self.rest = ""
        self._state = _State.VALUE
        self._stack: list[str] = []
        self._text = ""
        self._at = 0
        self._out: list[str] = []
        self._held: list[str] = []  # the text of a word so far
        self._pending: list[str] = []  # a comma and the white space behind it, until it is known not to be the last
        self._quote = '"'
        self._key = False  # whether the string is a key

    @property
    def in_string(self) -> bool:
        """Whether the text so far stops inside a string."""
        return self._state is _State.STRING

    @property
    def lacks_end_only(self) -> bool:
        """Whether brackets alone are missing: no string, key or value has been left half-written."""
        state = self._state
        if state is _State.QUOTED:
            return not self._key and not self._text[self._at :].strip(_SPACE)
        return state in _BETWEEN

    def push(self, text: str) -> str:
        """Takes more of the text. Nothing may be pushed after the end."""
        self._text = self._text[self._at :] + text
        self._at = 0
        steps = _STEPS
        while steps[self._state](self):
            pass
        if self.ended:
            self.rest = self._text[self._at :]
        return self._take()

    def close(self) -> str:
        """Takes the end of the text; returns what makes the value whole."""
        if self.ended:
            return ""
        if self._state is _State.QUOTED:
            self._end_string()
        elif self._state is _State.STRING:
            # What is left is the beginning of an escape.
            self._out.append(string_text(self._text[self._at :]))
            self._end_string()
        elif self._state is _State.WORD:
            self._end_word()
        elif self._state is _State.BARE_KEY:
            self._end_bare_key()
        if self._state is _State.COLON:
            self._out.append(": null")
        elif self._state is _State.VALUE and self._stack[-1] == "}":
            self._out.append("null")
        self._out += reversed(self._stack)
        self.ended = self.guessed = True
        return self._take()

    def cut(self) -> str:
        """Takes the end of a text that was cut short; returns what was held, and leaves the value open."""
        held = [*self._pending, *self._held, '"' if self._state is _State.QUOTED else "", self._text[self._at :]]
        return "".join(held)

    def _take(self) -> str:
        text = "".join(self._out)
        self._out.clear()
        return text

    def _next(self) -> str:
        """Passes white space on; the character behind it, empty if there is none yet."""
        text, begin = self._text, self._at
        end = _space_end(text, begin)
        if end > begin:
            (self._pending or self._out).append(text[begin:end])
            self._at = end
        return text[end : end + 1]

    def _go(self, state: _State, emitted: str = "", taken: int = 0) -> bool:
        self._state = state
        self._at += taken
        if emitted:
            self._out += self._pending
            self._pending.clear()
            self._out.append(emitted)
        return True

    def _skip(self) -> bool:
        """Leaves out a character that has no place here."""
        self.guessed = True
        self._at += 1
        return True

    def _value(self) -> bool:
        found = self._next()
        if not found:
            return False
        if found in _CLOSER:
            if len(self._stack) >= MAX_DEPTH:
                return self._skip()
            self._stack.append(_CLOSER[found])
            return self._go(_State.FIRST_KEY if found == "{" else _State.FIRST_VALUE, found, 1)
        if found in "\"'":
            return self._open_string(found, key=False)
        if found in ",]}":
            if self._stack[-1] == "}":  # a key without a value
                self.guessed = True
                return self._go(_State.AFTER, "null")
            if found == ",":
                return self._skip()
            return self._close_bracket(found)
        if found == ":":
            return self._skip()
        return self._go(_State.WORD)

    def _key_or_end(self) -> bool:
        found = self._next()
        if not found:
            return False
        if found in "\"'":
            return self._open_string(found, key=True)
        if found in "]}":
            return self._close_bracket(found)
        if found in ",:[{":
            return self._skip()
        self.guessed = True
        return self._go(_State.BARE_KEY)

    def _colon(self) -> bool:
        found = self._next()
        if not found:
            return False
        if found == ":":
            return self._go(_State.VALUE, ":", 1)
        self.guessed = True
        return self._go(_State.VALUE, ": ")

    def _after(self) -> bool:
        found = self._next()
        if not found:
            return False
        in_object = self._stack[-1] == "}"
        if found == ",":
            self._pending.append(",")
            return self._go(_State.KEY if in_object else _State.VALUE, taken=1)
        if found in "]}":
            return self._close_bracket(found)
        if found == ":":
            return self._skip()
        self.guessed = True
        self._pending.append(", ")
        return self._go(_State.KEY if in_object else _State.VALUE)

    def _close_bracket(self, found: str) -> bool:
        if found not in self._stack:
            return self._skip()
        # A comma before it is left out; the white space behind that comma stays.
        self._out += self._pending[1:]
        self._pending.clear()
        while self._stack[-1] != found:
            self.guessed = True
            self._out.append(self._stack.pop())
        self._stack.pop()
        self.ended = not self._stack
        return self._go(_State.END if self.ended else _State.AFTER, found, 1)

    def _open_string(self, quote: str, *, key: bool) -> bool:
        self._quote = quote
        self._key = key
        return self._go(_State.STRING, '"', 1)

    def _string(self) -> bool:
        text = self._text
        while True:
            found = _STRING_STEP[self._quote].search(text, self._at)
            end = len(text) if found is None else found.start()
            if end > self._at:
                self._out.append(text[self._at : end])
                self._at = end
            if found is None:
                return False
            character = found.group()
            if character == self._quote:
                return self._go(_State.QUOTED, taken=1)
            if character == "\\":
                if not self._escape():
                    return False
            else:
                self._out.append(string_text(character))
                self._at += 1

    def _escape(self) -> bool:
        """Passes an escape on; false while it is not whole."""
        text, at = self._text, self._at
        kind = text[at + 1 : at + 2]
        if not kind:
            return False
        if kind == "u":
            digits = _HEX.match(text, at + 2, at + 6)
            end = at + 2 if digits is None else digits.end()
            if end == at + 6:
                self._out.append(text[at:end])
                self._at = end
                return True
            if end == len(text):
                return False
        elif kind in '"\\/bfnrt':
            self._out.append(text[at : at + 2])
            self._at = at + 2
            return True
        elif kind == "'":
            self._out.append("'")
            self._at = at + 2
            return True
        self._out.append("\\\\")
        self._at = at + 1
        return True

    def _quoted(self) -> bool:
        """Behind a quotation mark inside a string: decides whether the string has ended."""
        ahead = self._text[self._at : self._at + _LOOK_AHEAD]
        ends = self._ends_before(ahead)
        if ends is None and len(ahead) < _LOOK_AHEAD:
            return False
        if ends is False:
            self.guessed = True
            self._out.append('\\"' if self._quote == '"' else "'")
            return self._go(_State.STRING)
        self._end_string()
        return True

    def _ends_before(self, text: str) -> bool | None:
        """Whether what follows a quotation mark can follow a string; None while that is not known."""
        if self._key:  # keys hold no quotation marks
            return True
        at = _space_end(text, 0)
        found = text[at : at + 1]
        if not found:
            return None
        if found in "]}":
            return True
        if found != ",":
            return False
        if self._stack[-1] == "]":
            return True
        # In an object a key comes next: in quotation marks, or a name with its colon.
        at = _space_end(text, at + 1)
        found = text[at : at + 1]
        if not found:
            return None
        if found in "\"']}":
            return True
        name = _NAME.match(text, at)
        if name is None:
            return False
        found = text[name.end() : name.end() + 1]
        return found == ":" if found else None

    def _end_string(self) -> None:
        self._out.append('"')
        self._state = _State.COLON if self._key else _State.AFTER

    def _word(self) -> bool:
        if not self._hold_until(_WORD_END):
            return False
        self._end_word()
        return True

    def _end_word(self) -> None:
        word = "".join(self._held)
        self._held.clear()
        bare = word.rstrip(_SPACE)
        valid = _WORDS.get(bare)
        if valid is None:
            if len(bare) <= _MAX_NUMBER and _NUMBER.fullmatch(bare):
                valid = bare
            else:
                self.guessed = True
                valid = f'"{string_text(bare)}"'
        self._go(_State.AFTER, valid + word[len(bare) :])

    def _bare_key(self) -> bool:
        if not self._hold_until(_KEY_END):
            return False
        self._end_bare_key()
        return True

    def _end_bare_key(self) -> None:
        key = "".join(self._held)
        self._held.clear()
        bare = key.rstrip(_SPACE)
        self._go(_State.COLON, f'"{string_text(bare)}"{key[len(bare) :]}')

    def _hold_until(self, end: re.Pattern[str]) -> bool:
        found = end.search(self._text, self._at)
        at = len(self._text) if found is None else found.start()
        self._held.append(self._text[self._at : at])
        self._at = at
        return found is not None

    def _nothing(self) -> bool:
        return False


def _space_end(text: str, at: int) -> int:
    """Where the white space that begins at `at` ends."""
    found = _SPACES.match(text, at)
    return at if found is None else found.end()


_STEPS = {
    _State.FIRST_VALUE: JsonRepair._value,
    _State.VALUE: JsonRepair._value,
    _State.FIRST_KEY: JsonRepair._key_or_end,
    _State.KEY: JsonRepair._key_or_end,
    _State.COLON: JsonRepair._colon,
    _State.AFTER: JsonRepair._after,
    _State.STRING: JsonRepair._string,
    _State.QUOTED: JsonRepair._quoted,
    _State.WORD: JsonRepair._word,
    _State.BARE_KEY: JsonRepair._bare_key,
    _State.END: JsonRepair._nothing,
}
