"""`qwenserve probe`: asks one process whether it serves; the exit code is the answer. What health checks run."""

from __future__ import annotations

import argparse
import asyncio

from qwenserve.cli.readiness import is_http_ready, is_serving
from qwenserve.runtime.client_tls import tls_of


def run_probe(arguments: argparse.Namespace) -> int:
    """Returns 0 where the process at the address serves, else 1."""
    ask = is_http_ready if arguments.http else is_serving
    address = arguments.address.rpartition("://")[2]
    serves = asyncio.run(ask(address, tls_of(arguments, arguments.address)))
    print("serving" if serves else "not serving")
    return 0 if serves else 1
