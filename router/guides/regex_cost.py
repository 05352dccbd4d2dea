"""What a regular expression costs an engine that follows it: its states, counted without building them.

Engines turn an expression into an automaton with a state for about every character that it can match, repetitions
written out: `(a{1000}){1000}` has a million. Look-around and back references have no automaton at all.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_CHARACTERS = 8_192
MAX_STATES = 50_000
MAX_GROUPS_DEEP = 50

_REPEAT = re.compile(r"\{([0-9]{1,9})(,([0-9]{0,9}))?\}")
_GROUP = re.compile(r"\?(?:[imsux-]*:|P?<[A-Za-z_][A-Za-z_0-9]*>|[imsux-]+\))")


class RegexError(ValueError):
    """An expression that cannot be followed; the message says where and why."""


class _Level(NamedTuple):
    """One group that is open: the states before it, and where it began."""

    states: int
    at: int


def check_regex(pattern: str) -> None:
    """Raises RegexError. Only what can be said without compiling it is checked; the rest is the engine's affair."""
    if len(pattern) > MAX_CHARACTERS:
        raise RegexError(f"{len(pattern):,} characters; at most {MAX_CHARACTERS:,}")
    levels: list[_Level] = []
    states = 0  # of the group that is open so far
    last = 0  # of what a repetition would repeat
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += _escape(pattern, at)
            states, last = states + 1, 1
        elif character == "[":
            at = _class_end(pattern, at)
            states, last = states + 1, 1
        elif character == "(":
            at += 1
            if pattern.startswith("?", at):
                at = _group_begin(pattern, at)
                if pattern[at - 1] == ")":  # flags alone
                    continue
            if len(levels) >= MAX_GROUPS_DEEP:
                raise RegexError(f"more than {MAX_GROUPS_DEEP} groups inside each other at character {at}")
            levels.append(_Level(states, at))
            states = last = 0
        elif character == ")":
            if not levels:
                raise RegexError(f"a ')' that closes nothing at character {at}")
            last, states = states, states + levels.pop().states
            at += 1
        elif character in "*+?":
            at += 1
            last = 0 if character == "?" else last  # an operator behind another one only says how much is taken
        elif character == "{" and (repeat := _REPEAT.match(pattern, at)):
            least, most = int(repeat[1]), int(repeat[3] or 0)
            if repeat[3] and most < least:
                raise RegexError(f"{repeat.group()} at character {at} is empty: {least} is more than {most}")
            states += last * (max(least, most, 1) - 1)
            last *= max(least, most, 1)
            at = repeat.end()
        else:
            at += 1
            states, last = states + 1, 1
        if states > MAX_STATES:
            raise RegexError(f"more than {MAX_STATES:,} states with repetitions written out; allow fewer")
    if levels:
        raise RegexError(f"a '(' that nothing closes at character {levels[-1].at - 1}")


def _escape(pattern: str, at: int) -> int:
    """The length of an escape."""
    kind = pattern[at + 1 : at + 2]
    if not kind:
        raise RegexError("a backslash at the end")
    if kind.isdigit() and kind != "0":
        raise RegexError(f"a reference back to a group (\\{kind}) at character {at}; write out what it repeats")
    return 2


def _class_end(pattern: str, at: int) -> int:
    """Where a class of characters ends; a bracket that comes first is one of them."""
    begin = at
    at += 1
    at += pattern.startswith("^", at)
    at += pattern.startswith("]", at)
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 2
        elif pattern[at] == "]":
            return at + 1
        else:
            at += 1
    raise RegexError(f"a '[' that nothing closes at character {begin}")


def _group_begin(pattern: str, at: int) -> int:
    """Where the inside of a group begins whose `?` is at `at`."""
    if re.match(r"\?<?[=!]", pattern[at : at + 3]):
        raise RegexError(f"look-around at character {at - 1}; say what matches, not what is beside it")
    kind = _GROUP.match(pattern, at)
    if kind is None:
        raise RegexError(f"a kind of group that is not known at character {at - 1}")
    return kind.end()
