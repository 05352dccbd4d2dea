"""What every face does with an error besides telling it in its own form."""

from __future__ import annotations

import math
from typing import Protocol

from qwenserve.runtime.errors import InternalError, ServiceError, Unauthenticated


class ErrorFormat(Protocol):
    """How a face tells errors. The status is the error's own, in every face."""

    def body(self, error: ServiceError, request_id: str) -> bytes:
        """Returns the body of the reply that stands for an error."""

    def event(self, error: ServiceError, request_id: str) -> bytes:
        """Returns the last event of a stream that an error ends."""


def error_headers(error: ServiceError) -> dict[str, str]:
    """Returns the headers that belong to an error: how to authenticate, when to come back."""
    headers: dict[str, str] = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        # Whole seconds are all that the standard header can say; the official clients also read the other one.
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(max(1, round(error.retry_after_s * 1000)))
    return headers


def defect() -> InternalError:
    """Returns the error that a caller sees for a defect of ours, without any internals."""
    return InternalError("internal error; the router's log has the details under this request id")
