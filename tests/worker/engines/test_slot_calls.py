"""Calls that copy slots' states, where llama.cpp does not answer."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenserve.worker.engines.llamacpp.slot_calls import SlotCallError, SlotCalls


@pytest.fixture
def path() -> Iterator[str]:
    # pytest's own directories can be too long for a socket's address.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield str(Path(name) / "s")


def test_nobody_listens(path: str) -> None:
    with pytest.raises(SlotCallError, match="save a slot's state"):
        SlotCalls(path, "key").save(0, 5)


def test_no_answer_in_time(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenserve.worker.engines.llamacpp.slot_calls._LIMIT_S", 0.01)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(SlotCallError, match="restore a slot's state"):
            SlotCalls(path, "key").restore(3, 5)
