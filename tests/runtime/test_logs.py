"""Log lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from qwenserve.router.chat.call import request_id
from qwenserve.runtime.logs import EventLog, configure_logs


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


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"text": 'quote " back\\slash\nline', "count": 3, "share": 0.25, "none": None, "flag": True},
        {"workers": ["a", "b"], "path": Path("/x"), "nested": {"é": [1, 2.5]}, "语": float("inf")},
    ],
)
def test_a_line_is_the_same_whoever_else_listens(
    fields: dict[str, Any], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    configure_logs("info", "json", "router")
    log = EventLog("test").bind(bound="x")

    log.info("event", **fields)
    logging.getLogger().addHandler(caplog.handler)
    log.info("event", **fields)

    alone, accompanied = (line.partition(", ")[2] for line in capsys.readouterr().err.splitlines())
    assert alone == accompanied
    assert json.loads("{" + alone) == {
        "level": "info",
        "tier": "router",
        "logger": "qwenserve.test",
        "event": "event",
        "bound": "x",
        **json.loads(json.dumps(fields, default=str)),
    }
    (record,) = caplog.records
    assert record.__dict__["fields"] == {"bound": "x", **fields}


@pytest.mark.parametrize("name", ["qwenserve", "qwenserve.test"])
def test_a_handler_of_one_logger_hears_its_events(
    name: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    configure_logs("info", "json", "router")
    logger = logging.getLogger(name)
    logger.addHandler(caplog.handler)
    try:
        EventLog("test").info("event", number=1)
    finally:
        logger.removeHandler(caplog.handler)

    assert [record.message for record in caplog.records] == ["event"]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_others_records_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json", "router")

    logging.getLogger("library").warning("%d things", 3)
    logging.getLogger("library").info("unseen")
    try:
        raise ValueError("defect")
    except ValueError as error:
        EventLog("test").error("failed", exc_info=error, number=1)

    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["level"], first["logger"], first["event"]) == ("warning", "library", "3 things")
    assert (second["event"], second["number"]) == ("failed", 1)
    assert second["traceback"].endswith("ValueError: defect")


def test_the_time_is_utc_in_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json", "router")

    before = datetime.now(timezone.utc)
    EventLog("test").info("event")
    after = datetime.now(timezone.utc)

    told = datetime.strptime(json.loads(capsys.readouterr().err)["time"], "%Y-%m-%dT%H:%M:%S.%f%z")
    assert before - timedelta(milliseconds=1) <= told <= after
