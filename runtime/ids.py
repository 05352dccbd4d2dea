"""Ids that must be unique but need not be secret: for requests, answers and tool calls.

`os.urandom` is a system call an id, several ids a request. A generator seeded by it once gives ids that are as
unlikely to meet, for a tenth of that.
"""

from __future__ import annotations

import os
import random

_BITS = 96
_random = random.Random(os.urandom(32))
# A child process would go on with its parent's ids.
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_id() -> str:
    """Returns 24 hexadecimal digits."""
    return f"{_random.getrandbits(_BITS):024x}"
