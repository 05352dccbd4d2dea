"""Merging by rank with `tiktoken`: the one module that relies on the library's internals.

Its public class keeps a second copy of the vocabulary (20 MB of a full-size one) beside the core that does the work,
and the core is no public API. So the core is used directly only in releases that somebody has looked at; in all
others the public class does the same for the memory.
"""

from __future__ import annotations

from array import array
from importlib.metadata import version
from typing import Protocol

import tiktoken

from qwenserve.text.id_arrays import ID_TYPE, id_array

# The first release whose core nobody has looked at: `CoreBPE(ranks, special_tokens, pattern)` with the methods below.
NOT_LOOKED_AT = (0, 15)
# The core looks for special tokens before it cuts words, at every character where it knows none: twice the time. So it
# is told of one, which is never allowed: where a text holds it, it is text like any other.
_STAND_IN = "\ufdd0\ufdd1\ufdd0\ufdd1"
_STAND_IN_ID = 0xFFFFFFFF
_ALLOWED: frozenset[str] = frozenset()


class Ranks(Protocol):
    """What merges the bytes of words by rank."""

    def ids_of(self, text: str) -> array[int]:
        """The ids of a text. A text that its regular expressions cannot take raises, or ends in a panic, which is a
        BaseException."""

    def decode_single_token_bytes(self, token: int) -> bytes:
        """The bytes of a token. Raises KeyError for an id that is none, OverflowError for one that cannot be one."""

    def encode_single_token(self, text_or_bytes: bytes) -> int:
        """The id of exactly these bytes. Raises KeyError where they are no token."""


def ranks_of(ranks: dict[bytes, int], pattern: str) -> Ranks:
    """Returns what merges by these ranks within the words that the expression `pattern` cuts."""
    if tuple(map(int, version("tiktoken").split(".")[:2])) < NOT_LOOKED_AT:
        return core_of(ranks, pattern)
    return public_of(ranks, pattern)


def core_of(ranks: dict[bytes, int], pattern: str) -> Ranks:
    """The library's core alone."""
    return _Core(ranks, pattern)


def public_of(ranks: dict[bytes, int], pattern: str) -> Ranks:
    """The library's public class."""
    return _Public("qwenserve", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


class _Core:
    """The core, whose ids come as one piece of memory: as objects of Python each would cost more than to be found."""

    def __init__(self, ranks: dict[bytes, int], pattern: str) -> None:
        from tiktoken._tiktoken import CoreBPE

        self._core = CoreBPE(ranks, {_STAND_IN: _STAND_IN_ID}, pattern)
        self._encode = self._core.encode_to_tiktoken_buffer

    def ids_of(self, text: str) -> array[int]:
        """See `Ranks`."""
        return array(ID_TYPE, bytes(self._encode(text, _ALLOWED)))

    def decode_single_token_bytes(self, token: int) -> bytes:
        """See `Ranks`."""
        if token == _STAND_IN_ID:
            raise KeyError(token)
        found: bytes = self._core.decode_single_token_bytes(token)
        return found

    def encode_single_token(self, text_or_bytes: bytes) -> int:
        """See `Ranks`."""
        found: int = self._core.encode_single_token(text_or_bytes)
        if found == _STAND_IN_ID:
            raise KeyError(text_or_bytes)
        return found


class _Public(tiktoken.Encoding):
    """The public class, whose ids come as a list."""

    def ids_of(self, text: str) -> array[int]:
        """See `Ranks`."""
        return id_array(self.encode_ordinary(text))
