"""When and in which pieces log lines reach standard error."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from qwenserve.runtime.log_lines import JsonLines, LineHandler, TextLines

LIMIT_S = 60.0

# A tier whose `serve` logs and then does what the test says.
TIER = """
import asyncio, sys
from qwenserve.runtime.lifecycle import Shutdown
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.process import run_tier

log = EventLog("test")

def blocked():
    sys.stdin.read()  # the loop's thread: nothing else happens until the test closes this

async def serve(config, arguments):
    shutdown = Shutdown()
    with shutdown.on_signals():
        {work}
    return 0

sys.exit(run_tier("router", serve, {arguments}))
"""


class Tier:
    """A process that logs."""

    def __init__(self, work: str, *arguments: str) -> None:
        script = TIER.format(work=work.replace("\n", "\n        "), arguments=list(arguments))
        self._process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __enter__(self) -> Tier:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def event(self) -> dict[str, Any]:
        """Waits for the next line."""
        assert self._process.stderr is not None
        event: dict[str, Any] = json.loads(self._process.stderr.readline())
        return event

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._process.terminate()

    def rest(self) -> list[str]:
        """Waits for the end, with standard input closed; returns the lines that nobody read yet."""
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self._process.stdin.close()
        # Not `communicate`: it knows nothing of what `readline` has read ahead.
        return self._process.stderr.read().splitlines()


def test_a_line_that_comes_alone_does_not_wait() -> None:
    with Tier('log.info("one"); blocked()') as tier:
        assert tier.event()["event"] == "one"


@pytest.mark.parametrize("level", ["warning", "error"])
def test_what_an_operator_should_see_does_not_wait_nor_overtake(level: str) -> None:
    with Tier(f'log.info("one"); log.info("two"); log.{level}("three"); blocked()') as tier:
        assert [tier.event()["event"] for _ in range(3)] == ["one", "two", "three"]


def test_lines_wait_for_the_loop_and_no_longer() -> None:
    with Tier('log.info("one"); log.info("two"); await shutdown.drain.wait()') as tier:
        assert [tier.event()["event"] for _ in range(2)] == ["one", "two"]


def test_nothing_is_lost_when_a_process_is_told_to_stop() -> None:
    work = """
for number in range(200):
    log.info("event", number=number)
await shutdown.drain.wait()
for number in range(200, 400):
    log.info("event", number=number)
"""
    with Tier(work) as tier:
        first = tier.event()
        tier.terminate()
        rest = tier.rest()

    assert [first["number"], *(json.loads(line)["number"] for line in rest)] == list(range(400))


@pytest.mark.parametrize("end", ['raise ValueError("defect")', "sys.exit(3)", "await asyncio.get_running_loop().x"])
def test_nothing_is_lost_when_a_process_fails(end: str) -> None:
    with Tier(f'log.info("one"); log.info("two"); {end}') as tier:
        lines = tier.rest()

    assert [json.loads(line)["event"] for line in lines[:2]] == ["one", "two"]
    assert all("event" not in line for line in lines[2:])


def test_threads_may_log() -> None:
    work = """
await asyncio.gather(*(asyncio.to_thread(log.info, "event", number=n) for n in range(50)))
log.info("event", number=50)
"""
    with Tier(work) as tier:
        assert sorted(json.loads(line)["number"] for line in tier.rest()) == list(range(51))


class Pieces(io.StringIO):
    """Standard error that keeps what each write brought."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.written = asyncio.Event()

    def write(self, text: str) -> int:
        self.pieces.append(text)
        self.written.set()
        return len(text)


def event(name: str, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("qwenserve.test", logging.INFO, "", 0, name, None, None)
    record.__dict__["fields"] = fields
    return record


@pytest.mark.parametrize("text", ["x", "语", "\udc80"])
async def test_busy_moments_are_written_in_pieces_that_a_pipe_takes_whole(text: str) -> None:
    stream = Pieces()
    handler = LineHandler(stream, JsonLines("router"))

    for number in range(100):
        handler.handle(event("event", number=number, text=text * 60))
    handler.flush()

    assert len(stream.pieces) < 20
    assert all(len(piece.encode(errors="backslashreplace")) <= 4096 for piece in stream.pieces)
    assert all(piece.endswith("\n") for piece in stream.pieces)
    numbers = [json.loads(line)["number"] for piece in stream.pieces for line in piece.splitlines()]
    assert numbers == list(range(100))


async def test_a_line_longer_than_a_piece_stays_whole() -> None:
    stream = Pieces()
    handler = LineHandler(stream, TextLines("router"))

    for text in ("a", "b" * 9000, "c"):
        handler.handle(event("event", text=text))
    handler.flush()

    assert [piece.count("\n") for piece in stream.pieces] == [1, 1, 1]


async def test_what_waits_is_written_by_the_loop_and_once() -> None:
    stream = Pieces()
    handler = LineHandler(stream, TextLines("router"))
    names = [f"event-{number}" for number in range(20)]

    for name in names:
        handler.handle(event(name))
    while len(told := [line.split()[-1] for piece in stream.pieces for line in piece.splitlines()]) < len(names):
        await asyncio.wait_for(stream.written.wait(), LIMIT_S)
        stream.written.clear()

    assert told == names
    assert len(stream.pieces) < len(names) / 2


async def test_a_stream_that_is_gone_does_not_disturb(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = LineHandler(stream, TextLines("router"))
    stream.close()

    handler.handle(event("one"))
    handler.write(logging.WARNING, "qwenserve.test", "two", {})

    # Where `logging` would complain of a handler that failed.
    assert capsys.readouterr().err == ""


async def test_a_field_that_cannot_be_shown_does_not_disturb(capsys: pytest.CaptureFixture[str]) -> None:
    class Unshowable:
        def __str__(self) -> str:
            raise ValueError("no text")

    stream = Pieces()
    handler = LineHandler(stream, JsonLines("router"))

    handler.write(logging.INFO, "qwenserve.test", "one", {"field": Unshowable()})
    handler.write(logging.INFO, "qwenserve.test", "two", {})
    handler.flush()

    assert ["two" in piece for piece in stream.pieces] == [True]
    assert "no text" in capsys.readouterr().err
