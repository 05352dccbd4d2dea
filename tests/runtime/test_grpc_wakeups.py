"""gRPC wakes the loop once for all that waits, and loses nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qwenserve.runtime.grpc_wakeups import few_wakeups

ROOT = Path(__file__).resolve().parents[2]

# A channel of ours, in a process without any other: how its thread is scheduled, and how many sockets take all.
FIRST_CHANNEL = """
import asyncio, gc, os, threading
import qwenserve.runtime.grpc_core
from qwenserve.runtime import grpc_wakeups
from qwenserve.runtime.config import GrpcConfig
from qwenserve.runtime.grpc_setup import make_channel

async def main():
    async with make_channel("127.0.0.1:1", GrpcConfig()):
        grpc_wakeups.poll_as_batch()
        threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
        batch = [os.sched_getscheduler(thread.native_id) == os.SCHED_BATCH for thread in threads]
        taking = [each for each in gc.get_objects() if type(each) is grpc_wakeups._TakesAll]
        print(batch, len(taking), os.sched_getscheduler(0) == os.SCHED_OTHER)

"""


def new_pair() -> tuple[socket.socket, socket.socket]:
    with few_wakeups():
        loop_end, thread_end = socket.socketpair()
    loop_end.setblocking(False)
    return loop_end, thread_end


def filled(end: socket.socket) -> int:
    """Sends single bytes until one is refused, or 1,000 were taken. Returns how many were."""
    for sent in range(1000):
        try:
            end.send(b"1")
        except BlockingIOError:  # noqa: PERF203  # the last turn's
            return sent
    return 1000


def test_the_bytes_of_many_events_are_taken_at_once() -> None:
    loop_end, thread_end = new_pair()
    with loop_end, thread_end:
        for _ in range(5):
            thread_end.send(b"1")

        assert loop_end.recv(1) == b"11111"
        with pytest.raises(BlockingIOError):
            loop_end.recv(1)


def test_a_byte_is_refused_only_while_others_wait_to_be_taken() -> None:
    loop_end, thread_end = new_pair()
    with loop_end, thread_end:
        for _ in range(3):
            sent = filled(thread_end)

            assert 0 < sent < 1000
            assert loop_end.recv(1) == b"1" * sent


def test_outside_the_block_pairs_are_as_ever() -> None:
    with pytest.raises(ZeroDivisionError), few_wakeups():
        _ = 1 / 0

    first, second = socket.socketpair()
    with first, second:
        second.send(b"11")
        assert first.recv(1) == b"1"


@pytest.mark.skipif(sys.platform != "linux", reason="scheduling classes are Linux's")
@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("with grpc_wakeups.one_loop(): asyncio.run(main())", "[True] 1 True"),
        # Where there may be a second loop nothing is changed: a closed one's events would keep others from coming.
        ("asyncio.run(main())", "[False] 0 True"),
        # Nor in a release of grpcio that nobody has looked at.
        (
            "qwenserve.runtime.grpc_core.LOOKED_AT = False\nwith grpc_wakeups.one_loop(): asyncio.run(main())",
            "[False] 0 True",
        ),
    ],
)
def test_grpc_makes_its_thread_and_its_pair_as_is_expected_of_it(start: str, expected: str) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")])
    told = subprocess.run(
        [sys.executable, "-c", FIRST_CHANNEL + start],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert told.stdout.strip() == expected
