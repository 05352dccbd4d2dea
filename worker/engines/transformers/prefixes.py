"""KV caches of ended requests, kept for prompts that begin alike. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Kept(NamedTuple):
    """A cache that nobody uses, and the ids that it holds."""

    cache: int
    salt: str
    ids: Sequence[int]


class Prefixes:
    """The kept caches, oldest first, with at most `limit` ids in all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[Kept] = []
        self._numbers = 0

    def take(self, salt: str, ids: Sequence[int]) -> tuple[int, int]:
        """Returns a cache for a prompt, and how many of its ids that holds: all but one of them at most.

        The cache is the caller's from then on. One that holds none is new.
        """
        most = len(ids) - 1
        best, length = None, 0
        for kept in self._kept:
            if kept.salt == salt and (common := _common(kept.ids, ids, most)) > length:
                best, length = kept, common
        if best is None:
            self._numbers += 1
            return self._numbers, 0
        self._kept.remove(best)
        return best.cache, length

    def keep(self, kept: Kept) -> list[int]:
        """Takes a cache back; returns the caches that there is no more room for."""
        self._kept.append(kept)
        dropped = []
        total = sum(len(each.ids) for each in self._kept)
        while self._kept and total > self._limit:
            oldest = self._kept.pop(0)
            total -= len(oldest.ids)
            dropped.append(oldest.cache)
        return dropped


def _common(left: Sequence[int], right: Sequence[int], most: int) -> int:
    count = 0
    for one, other in zip(left[:most], right[:most], strict=False):
        if one != other:
            break
        count += 1
    return count
