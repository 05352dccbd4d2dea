"""`python -m qwenserve.bench.tier.store_server PORT`: becomes a Redis server that keeps nothing on disk."""

from __future__ import annotations

import os
import sys

from qwenserve.cli.local_store import server_program


def main() -> None:
    """Raises CommandError where no server is installed."""
    program = server_program()
    settings = ["--bind", "127.0.0.1", "--port", sys.argv[1], "--save", "", "--appendonly", "no"]
    os.execv(program, [program, *settings])


if __name__ == "__main__":
    main()
