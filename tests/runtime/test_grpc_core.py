"""Settings of gRPC's core reach it, and it understands them."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
import {tier}
assert "grpc" not in sys.modules, "too late: the core reads its settings when it is loaded"
import asyncio, grpc
async def main():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await server.stop(0)
asyncio.run(main())
print(os.environ.get("GRPC_EXPERIMENTS"))
"""


@pytest.mark.parametrize("tier", ["router", "worker", "tokenizer_svc"])
def test_the_core_is_loaded_with_our_settings_and_does_not_complain(tier: str) -> None:
    given = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(tier=tier)], capture_output=True, text=True, timeout=60, check=True
    )

    assert given.stderr == ""
    assert given.stdout.strip() == "-event_engine_client,-event_engine_listener"


def test_the_users_choice_stays() -> None:
    given = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(tier="router")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"GRPC_EXPERIMENTS": "event_engine_client"},
    )

    assert given.stdout.strip() == "event_engine_client"
