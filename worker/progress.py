"""How long work on model files tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

# (done_bytes, total_bytes); called from the thread that does the work.
Progress = Callable[[int, int], None]


def no_progress(done_bytes: int, total_bytes: int) -> None:
    """Shows nothing."""
