"""What a run on a GPU machine prints: one line of JSON for each thing that was looked at."""

from __future__ import annotations

import json
import time
from typing import Any

_BEGAN = time.perf_counter()


def say(what: str, **facts: Any) -> None:
    """Prints one fact, with the seconds since the beginning."""
    print(json.dumps({"s": round(time.perf_counter() - _BEGAN, 1), "what": what, **facts}, default=str), flush=True)
