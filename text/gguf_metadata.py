"""The key-value metadata at the head of a GGUF file.

Read here rather than with the `gguf` package: that makes several numpy views for each of the 300,000 strings of a
vocabulary and its merges, which takes seconds and memory that a router keeps for good. The layout is in the GGUF
specification: magic, version, two counts, then key, type and value for each entry; all little-endian.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

_MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING = 8
_ARRAY = 9


class BrokenGguf(ValueError):
    """The file is no GGUF file of a known version, or ends too early."""


def read_metadata(path: Path) -> dict[str, Any]:
    """All entries by key; arrays as lists. Tensors are not touched. Raises `BrokenGguf` and `OSError`."""
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).entries()
        except (struct.error, IndexError, UnicodeDecodeError, KeyError, ValueError) as error:
            raise BrokenGguf(str(error)) from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def entries(self) -> dict[str, Any]:
        if self._data[:4] != _MAGIC:
            raise BrokenGguf("it does not begin with GGUF")
        self._at = 4
        version = self._scalar("I")
        if version not in (2, 3):
            raise BrokenGguf(f"version {version} is not known")
        self._scalar("Q")  # tensors
        count = self._scalar("Q")
        return {self._string(): self._value(self._scalar("I")) for _ in range(count)}

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        return self._scalar(_SCALARS[kind])

    def _array(self) -> list[Any]:
        kind, count = self._scalar("I"), self._scalar("Q")
        if kind in _SCALARS:
            values = struct.unpack_from(f"<{count}{_SCALARS[kind]}", self._data, self._at)
            self._at += struct.calcsize(f"<{count}{_SCALARS[kind]}")
            return list(values)
        return [self._value(kind) for _ in range(count)]

    def _scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def _string(self) -> str:
        end = self._scalar("Q") + self._at
        if end > len(self._data):
            raise BrokenGguf("it ends inside a string")
        text = self._data[self._at : end].decode("utf-8")
        self._at = end
        return text
