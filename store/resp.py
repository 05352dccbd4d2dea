"""Redis's protocol (RESP2) for short commands, by the `hiredis` library: commands written, replies read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import hiredis

# Of a message besides the bytes of its longest reply: kinds, lengths, other replies that came with it.
_AROUND = 64 * 1024

ReplyError: TypeAlias = hiredis.ReplyError
Reply: TypeAlias = bytes | int | ReplyError | None
_KINDS = frozenset({bytes, int, ReplyError, type(None)})
# What the reader gives where no more replies are complete: not equal to any reply.
_NO_MORE = object()


class BadReply(Exception):
    """What came is no reply that was asked for. Nothing behind it can be read either."""


def command(*words: str | bytes | int) -> bytes:
    """Returns a command as it is sent; texts in UTF-8."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub knows commands of one word
    return packed


class Replies:
    """Cuts what arrives into replies. `longest` is the most bytes that one may have."""

    __slots__ = ("_most", "_reader", "_unread")

    def __init__(self, longest: int) -> None:
        self._reader = hiredis.Reader(notEnoughData=_NO_MORE)
        self._most = longest + _AROUND
        # Bytes that may belong to a reply which is not complete.
        self._unread = 0

    def feed(self, data: bytes) -> Sequence[Reply]:
        """Returns the replies that are complete now, in their order. Raises BadReply."""
        try:
            self._reader.feed(data)
            replies: list[Reply] = list(iter(self._reader.gets, _NO_MORE))
        except hiredis.ProtocolError as error:
            raise BadReply(str(error)) from None
        # Lists and what later versions of the protocol have are no answers to these commands.
        if not _KINDS.issuperset(map(type, replies)):
            raise BadReply("a kind of reply that was not asked for")
        self._unread = len(data) if replies else self._unread + len(data)
        if self._unread > self._most:
            raise BadReply("more bytes than were asked for")
        return replies
