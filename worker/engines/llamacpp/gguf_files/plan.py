"""What is to be written: a header and the segments of the data section, each made only when its turn comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

# Bytes, or anything with the buffer interface whose length in bytes is `nbytes`.
Pieces = Iterable[bytes | memoryview]


class Segment(NamedTuple):
    """`nbytes` of the data section, padding included. `pieces` makes them anew at each call."""

    nbytes: int
    pieces: Callable[[], Pieces]


class FilePlan(NamedTuple):
    """A whole file. The same input gives the same plan, which is what makes resuming safe."""

    header: bytes
    segments: list[Segment]

    @property
    def total_bytes(self) -> int:
        return len(self.header) + sum(s.nbytes for s in self.segments)
