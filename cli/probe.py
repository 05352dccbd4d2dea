"""`qwenserve probe`: asks one process whether it serves; the exit code is the answer. What health checks run."""

from __future__ import annotations

import argparse
import asyncio

from qwenserve.cli.readiness import is_http_ready, is_serving


def run_probe(arguments: argparse.Namespace) -> int:
    """Returns 0 where the process at the address serves, else 1."""
    ask = is_http_ready if arguments.http else is_serving
    serves = asyncio.run(ask(arguments.address))
    print("serving" if serves else "not serving")
    return 0 if serves else 1
