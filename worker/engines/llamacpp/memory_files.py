"""Files without a name, in memory: gone with the process, however it ends. Linux alone has them."""

from __future__ import annotations

import os

# Where a file is found by its number; only this process sees its own.
DIRECTORY = "/proc/self/fd/"


def create() -> int | None:
    """Returns a new file's number; None where there are no such files, or no more of them."""
    try:
        return os.memfd_create("qwenserve-prefix", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        return None


def size_of(file: int) -> int:
    """Returns the bytes in a file."""
    return os.fstat(file).st_size


def close(file: int) -> None:
    """Gives a file's memory back. Its number may come again: nobody may write to it any more."""
    os.close(file)
