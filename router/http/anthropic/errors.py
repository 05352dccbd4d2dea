"""ServiceError in the form of Anthropic's API. Statuses stay the error's own; the type follows the status."""

from __future__ import annotations

from qwenserve.router.http.transport.json_body import to_json
from qwenserve.runtime.errors import ServiceError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicErrors:
    """Errors in Anthropic's form; an `ErrorFormat`. `param` and `code` are ours, beside what that form has."""

    def body(self, error: ServiceError, request_id: str) -> bytes:
        """Returns the error object."""
        told = {
            "type": _TYPES.get(error.http_status, "api_error"),
            "message": error.message,
            "param": error.param,
            "code": error.code,
        }
        return to_json({"type": "error", "error": told, "request_id": request_id})

    def event(self, error: ServiceError, request_id: str) -> bytes:
        """Returns the error as the stream's last event."""
        return b"event: error\ndata: %b\n\n" % self.body(error, request_id)


ANTHROPIC_ERRORS = AnthropicErrors()
