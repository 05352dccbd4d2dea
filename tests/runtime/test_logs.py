"""Log lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from runtime.call import request_id
from runtime.logs import EventLog, configure_logs


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    logging.getLogger("qwenserve").setLevel(logging.NOTSET)


def test_an_event_is_one_json_line_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json", "router")

    EventLog("answer").bind(request_id="r1").info("done", tokens=3)
    EventLog("answer").debug("unseen")

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    event = json.loads(lines[0])
    assert (event["event"], event["tier"], event["request_id"], event["tokens"]) == ("done", "router", "r1", 3)
    assert event["time"].endswith("Z")


def test_text_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "text", "worker")

    EventLog("answer").warning("queue_full", queued=9)

    assert "warning worker queue_full queued=9" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["", None, "a b", "x\nforged: line", "é", "a" * 129])
def test_an_id_that_could_break_a_log_line_is_replaced(given: str | None) -> None:
    made = request_id(given)

    assert made != given
    assert made.isalnum()


def test_a_good_id_is_kept() -> None:
    assert request_id("abc-1.2:3_4") == "abc-1.2:3_4"
