"""How many JSON values a body holds, counted before anything is made of it.

A body of a few megabytes can hold millions of values. To make them takes seconds, in calls that let nothing else run,
and most of them are refused afterwards. Counting takes milliseconds: everything but the marks of JSON's structure is
left out by one pass, and strings, which may hold any of these marks, by a second one where there are many.
"""

from __future__ import annotations

from typing import NamedTuple

from qwenserve.runtime.errors import RequestTooLarge

# Bodies up to this many bytes cannot hold enough to matter.
SMALL_BODY = 32 * 1024

# The most that is accepted: enough for a prompt of token ids of the largest window, or for some thousand messages
# with tool calls.
MAX_ITEMS = 1 << 18
MAX_MEMBERS = 1 << 16
MAX_OBJECTS = 1 << 14

# Rough microseconds to turn each into a request; a list costs as much as an object with few members.
_ITEM_US, _MEMBER_US, _OBJECT_US, _LIST_US = 0.5, 1.0, 8.0, 2.0
# Up to this many microseconds the work is done on the event loop itself.
_INLINE_US = 10_000

_MARKS = b',:{["'
_REST = bytes(byte for byte in range(256) if byte not in _MARKS)


class Values(NamedTuple):
    """What a body holds outside its strings: at most so many items, members of objects, objects and lists."""

    items: int
    members: int
    objects: int
    lists: int

    @property
    def small(self) -> bool:
        """Whether reading them on the event loop delays no stream noticeably."""
        cost = _ITEM_US * self.items + _MEMBER_US * self.members + _OBJECT_US * self.objects + _LIST_US * self.lists
        return cost <= _INLINE_US

    @property
    def too_many(self) -> str:
        """What there is too much of, for people; empty where there is not."""
        for number, most, name in (
            (self.objects, MAX_OBJECTS, "objects"),
            (self.members, MAX_MEMBERS, "members of objects"),
            (self.items + self.lists, MAX_ITEMS, "values"),
        ):
            if number > most:
                return f"the body holds {number:,} {name}; at most {most:,} are read in one request"
        return ""


def count_values(body: bytes) -> Values:
    """Returns what a body holds. Raises RequestTooLarge where it is more than is read."""
    found = _count(body.translate(None, _REST + b'"'))
    if found.small:
        return found
    # Many of these marks may stand inside strings.
    marks = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _REST)
    strings = marks.count(b'"') // 2
    if strings > MAX_ITEMS + MAX_MEMBERS:
        raise RequestTooLarge(
            f"the body holds {strings:,} strings; at most {MAX_ITEMS + MAX_MEMBERS:,} are read in one request"
        )
    found = _count(b"".join(marks.split(b'"')[::2]))
    if found.too_many:
        raise RequestTooLarge(found.too_many)
    return found


def _count(marks: bytes) -> Values:
    return Values(marks.count(b","), marks.count(b":"), marks.count(b"{"), marks.count(b"["))
