"""One log event and one set of counts for every answer, and never any text."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from qwenserve.router.chat.answer import AnswerOutcome, refused
from qwenserve.router.chat.call import Call
from qwenserve.router.outcomes import OutcomeRecorder
from qwenserve.runtime.errors import InvalidRequest, ServiceError, WorkerLost
from qwenserve.runtime.metrics import RouterMetrics
from qwenserve.type.v1 import sampling_pb2

USAGE = sampling_pb2.Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4, reasoning_tokens=2)


def outcome(error: ServiceError | None = None, **fields: Any) -> AnswerOutcome:
    call = Call("r-1", traceparent="00-t-s-01", key_id="k1")
    whole = AnswerOutcome("chat", call, error, False, USAGE, 100.0, 100.5, 101.3, 0.25, 1, ["worker-0"])
    return replace(whole, **fields)


def counts(metrics: RouterMetrics) -> dict[str, float]:
    """Every sample but the buckets and times of creation, by name and labels."""
    text = metrics.render()[0].decode()
    samples = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in samples if "_bucket" not in name and "_created" not in name}


def test_a_good_answer_is_counted_once_with_its_tokens_and_times() -> None:
    metrics = RouterMetrics()

    OutcomeRecorder(metrics)(outcome())

    found = counts(metrics)
    assert found['qwenserve_requests_total{kind="chat",outcome="ok"}'] == 1
    assert found["qwenserve_prompt_tokens_total"] == 10
    assert found["qwenserve_completion_tokens_total"] == 5
    assert found["qwenserve_cached_tokens_total"] == 4
    assert found["qwenserve_reasoning_tokens_total"] == 2
    assert found["qwenserve_broken_tool_calls_total"] == 1
    assert found["qwenserve_time_to_first_token_seconds_sum"] == 0.5
    assert found["qwenserve_inter_token_seconds_sum"] == pytest.approx(0.2)
    assert found['qwenserve_stage_seconds_sum{stage="queue"}'] == 0.25
    assert found["qwenserve_request_seconds_count"] == 1


def test_choices_are_counted_by_how_they_ended() -> None:
    metrics = RouterMetrics()
    reasons = [sampling_pb2.FINISH_REASON_STOP, sampling_pb2.FINISH_REASON_STOP, sampling_pb2.FINISH_REASON_TOOL_CALLS]

    OutcomeRecorder(metrics)(outcome(finish_reasons=reasons))

    found = counts(metrics)
    assert found['qwenserve_finished_choices_total{reason="stop"}'] == 2
    assert found['qwenserve_finished_choices_total{reason="tool_calls"}'] == 1


@pytest.mark.parametrize(
    ("given", "name", "reason"),
    [
        (outcome(WorkerLost("gone")), "worker_lost", "WORKER_LOST"),
        (refused("chat", Call("r"), InvalidRequest("bad"), 1.0), "invalid_request", "INVALID_REQUEST"),
    ],
)
def test_a_failure_is_counted_by_its_reason(given: AnswerOutcome, name: str, reason: str) -> None:
    metrics = RouterMetrics()

    OutcomeRecorder(metrics)(given)

    found = counts(metrics)
    assert found[f'qwenserve_requests_total{{kind="chat",outcome="{name}"}}'] == 1
    assert found[f'qwenserve_errors_total{{reason="{reason}"}}'] == 1


@pytest.mark.parametrize("given", [outcome(cancelled=True), refused("chat", Call("r"), None, 1.0)])
def test_an_answer_given_up_by_its_caller_is_no_error(given: AnswerOutcome) -> None:
    metrics = RouterMetrics()

    OutcomeRecorder(metrics)(given)

    found = counts(metrics)
    assert found['qwenserve_requests_total{kind="chat",outcome="cancelled"}'] == 1
    assert not any(name.startswith("qwenserve_errors_total") for name in found)


@pytest.mark.parametrize(
    ("error", "level"),
    [(None, logging.INFO), (InvalidRequest("no"), logging.INFO), (WorkerLost("gone"), logging.WARNING)],
)
def test_an_answer_is_one_event_whose_level_says_who_should_look(
    error: ServiceError | None, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="qwenserve.answer"):
        OutcomeRecorder(RouterMetrics())(outcome(error))

    (record,) = caplog.records
    fields = record.__dict__["fields"]
    assert record.levelno == level
    assert (fields["request_id"], fields["workers"], fields["key"]) == ("r-1", ["worker-0"], "k1")
    assert (fields["prompt_tokens"], fields["completion_tokens"], fields["first_token_ms"]) == (10, 5, 500.0)


def test_a_router_that_does_not_log_information_still_tells_of_failures(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="qwenserve.answer"):
        recorder = OutcomeRecorder(RouterMetrics())
        recorder(outcome())
        recorder(outcome(WorkerLost("gone")))

    assert [record.levelname for record in caplog.records] == ["WARNING"]
