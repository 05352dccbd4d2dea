"""ServiceError as OpenAI's error object."""

from __future__ import annotations

import json

from qwenserve.runtime.errors import ServiceError


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


class OpenAIErrors:
    """Errors in OpenAI's form; an `ErrorFormat`. The request id is in a header."""

    def body(self, error: ServiceError, request_id: str) -> bytes:
        """Returns the error object."""
        return json.dumps(error_object(error), ensure_ascii=False).encode("utf-8", "replace")

    def event(self, error: ServiceError, request_id: str) -> bytes:
        """Returns the error object as an event without a name, which the official client takes for one."""
        return b"data: %b\n\n" % self.body(error, request_id)


OPENAI_ERRORS = OpenAIErrors()
