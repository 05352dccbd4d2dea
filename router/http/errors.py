"""ServiceError as OpenAI's error object: status, headers and body. The only place that maps errors for HTTP."""

from __future__ import annotations

import json
import math

from qwenserve.runtime.errors import InternalError, ServiceError, Unauthenticated


def error_object(error: ServiceError) -> dict[str, dict[str, str | None]]:
    """Returns `{"error": {…}}` with message, type, param and code."""
    return {
        "error": {
            "message": error.message,
            "type": error.openai_type,
            "param": error.param,
            "code": error.code,
        }
    }


def error_body(error: ServiceError) -> bytes:
    """Returns the error object as JSON."""
    return json.dumps(error_object(error), ensure_ascii=False).encode("utf-8", "replace")


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
    """Returns what a caller hears of a defect of ours: nothing of its inside."""
    return InternalError("internal error; the router's log has the details under this request id")
