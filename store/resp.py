"""The part of Redis's protocol (RESP2) that short commands need: commands written, replies read. Pure.

Lists, which none of those commands is answered with, are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

# A number, a simple string or an error has one line; no server of ours says that much in it.
_LONGEST_LINE = 64 * 1024

_BULK, _SIMPLE, _ERROR, _NUMBER = b"$+-:"


class BadReply(Exception):
    """What came is no reply that was asked for. Nothing behind it can be read either."""


class ReplyError(Exception):
    """The server's own error; the text is its line."""


Reply: TypeAlias = bytes | int | ReplyError | None


def command(*words: bytes) -> bytes:
    """Returns a command as it is sent."""
    return b"*%d\r\n%b" % (len(words), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words]))


class Replies:
    """Cuts what arrives into replies. `longest` is the most bytes that one may have."""

    __slots__ = ("_longest", "_needed", "_rest")

    def __init__(self, longest: int) -> None:
        self._longest = longest
        # What came of a reply that is not complete, and the length before which looking again is in vain.
        self._rest = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> Sequence[Reply]:
        """Returns the replies that are complete now, in their order. Raises BadReply."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return ()
            data = bytes(self._rest)
            self._rest.clear()
        replies: list[Reply] = []
        at, length = 0, len(data)
        while at < length:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                if length - at > _LONGEST_LINE:
                    raise BadReply("a line without an end")
                return self._more_needed(replies, data, at, length - at + 1)
            kind, line = data[at], data[at + 1 : line_end]
            behind = line_end + 2
            if kind == _BULK:
                size = _number(line)
                if size > self._longest:
                    raise BadReply("more bytes than were asked for")
                if size < 0:
                    replies.append(None)
                else:
                    end = behind + size
                    if end + 2 > length:
                        return self._more_needed(replies, data, at, end + 2 - at)
                    replies.append(data[behind:end])
                    behind = end + 2
            elif kind == _SIMPLE:
                replies.append(line)
            elif kind == _ERROR:
                replies.append(ReplyError(line.decode(errors="replace")))
            elif kind == _NUMBER:
                replies.append(_number(line))
            else:
                raise BadReply("a kind of reply that was not asked for")
            at = behind
        return replies

    def _more_needed(self, replies: Sequence[Reply], data: bytes, at: int, needed: int) -> Sequence[Reply]:
        self._rest += data[at:]
        self._needed = needed
        return replies


def _number(line: bytes) -> int:
    # int() takes more than the protocol has: spaces, underscores, and digits without end.
    if len(line) > 20 or not (line.isdigit() or line.removeprefix(b"-").isdigit()):
        raise BadReply("no number")
    return int(line)
