"""Merging by rank with `tiktoken`: the one module that relies on the library's internals.

Its public class keeps a second copy of the vocabulary (20 MB of a full-size one) beside the core that does the work,
and the core is no public API. So the core is used directly only in releases that somebody has looked at; in all
others the public class does the same for the memory.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Protocol

import tiktoken

# The first release whose core nobody has looked at: `CoreBPE(ranks, special_tokens, pattern)` with the methods below.
NOT_LOOKED_AT = (0, 15)


class Ranks(Protocol):
    """What merges the bytes of words by rank."""

    def encode_ordinary(self, text: str) -> list[int]:
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
    from tiktoken._tiktoken import CoreBPE

    core: Ranks = CoreBPE(ranks, {}, pattern)
    return core


def public_of(ranks: dict[bytes, int], pattern: str) -> Ranks:
    """The library's public class."""
    public: Ranks = tiktoken.Encoding("qwenserve", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return public
