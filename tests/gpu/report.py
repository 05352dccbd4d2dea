"""What a run on a GPU machine prints: one line of JSON for each thing that was looked at."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

_BEGAN = time.perf_counter()


def say(what: str, **facts: Any) -> None:
    """Prints one fact, with the seconds since the beginning."""
    print(json.dumps({"s": round(time.perf_counter() - _BEGAN, 1), "what": what, **facts}, default=str), flush=True)


def step(name: str, work: Callable[[], None]) -> None:
    """Runs a step; the next ones run whatever comes of it."""
    began = time.monotonic()
    try:
        work()
    except Exception as error:
        say("FAILED", step=name, error=f"{type(error).__name__}: {str(error)[:1500]}")
    say("step", name=name, took_s=round(time.monotonic() - began, 1))
