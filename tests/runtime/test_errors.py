"""The error family: one table, the same meaning on every side."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from qwenserve.runtime import errors
from qwenserve.runtime.errors import ServiceError, by_reason
from qwenserve.runtime.grpc_setup import to_status


def family(base: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield base
    for child in base.__subclasses__():
        yield from family(child)


def test_every_reason_is_upper_case_and_leads_back_to_its_class() -> None:
    for error_class in family():
        assert error_class.reason == error_class.reason.upper()
        assert by_reason(error_class.reason).reason == error_class.reason


def test_no_two_classes_share_a_reason() -> None:
    reasons = [c.reason for c in family() if "reason" in vars(c)]

    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize("error_class", list(family()), ids=lambda c: c.__name__)
def test_http_and_grpc_statuses_agree_on_whose_fault_it_is(error_class: type[ServiceError]) -> None:
    callers = {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    if error_class in (errors.RequestTimeout, errors.DeadlineExceeded):
        assert error_class.status is grpc.StatusCode.DEADLINE_EXCEEDED
        return

    assert (error_class.http_status < 500) == (error_class.status in callers)


def test_an_unknown_reason_is_an_internal_error() -> None:
    assert by_reason("NEVER_HEARD_OF") is errors.InternalError


def test_a_status_carries_reason_param_metadata_and_retry() -> None:
    error = errors.QueueFull("full", param="n", metadata={"queued": "9"}, retry_after_s=1.5)

    packed = dict(to_status(error).trailing_metadata)["grpc-status-details-bin"]
    rich = status_pb2.Status.FromString(packed)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()

    assert rich.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert rich.details[0].Unpack(info)
    assert rich.details[1].Unpack(retry)
    assert (info.reason, info.domain, dict(info.metadata)) == ("QUEUE_FULL", "qwenserve", {"queued": "9", "param": "n"})
    assert retry.retry_delay.ToMilliseconds() == 1500
