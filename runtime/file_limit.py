"""How many files, sockets included, this process may have open."""

from __future__ import annotations

import resource


def file_limit() -> int:
    """Returns how many files the process may have open. Without limit, as many as anybody has."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit if limit != resource.RLIM_INFINITY else 1 << 20
