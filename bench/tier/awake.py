"""Keeps the cores that it may use from sleeping, and takes no time from other processes: it runs on idle cores.

A core that sleeps between two steps wakes with cold caches and a slow clock, and a virtual one by way of its host:
what is measured on it costs up to twice what it costs on a core that has other work. Ends with its parent.
"""

from __future__ import annotations

import os
import sys

_TURNS = 100_000


def main() -> int:
    """Runs until the process that started it is gone, or it is told to end."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    parent = os.getppid()
    while os.getppid() == parent:
        for _ in range(_TURNS):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
