"""The one family of errors that callers see, and the table that maps it to gRPC and HTTP.

    ServiceError
    ├── InvalidRequest        a field is wrong; `param` names it
    │   └── ContextLengthExceeded
    ├── Unauthenticated       no key, or a wrong one
    ├── ForbiddenOrigin       a web page that may not use this service
    ├── NotFound              no such model or path
    ├── NotCached             only a kept answer was wanted, and there is none
    ├── RequestTooLarge       the body is over the limit
    ├── UnsupportedEncoding   the body is packed in a way that is not read
    ├── MethodNotAllowed      the path exists, the verb does not
    ├── RequestTimeout        the body came too slowly
    ├── QueueFull             wait and try again
    ├── RateLimited           the caller's key has used up what it may
    ├── SlowReader            the peer did not read its stream
    ├── Unavailable           no worker, or draining
    │   ├── WorkerLost        the worker died with the request
    │   ├── NoRouter          a shim has no router to ask
    │   └── RouterLost        the router died with the request; said by a shim
    ├── DeadlineExceeded      the caller's own deadline passed
    ├── Unsupported           understood, and not possible here
    └── InternalError         a defect of ours

`reason` never changes for the same error; texts may. Source of the shape: google.rpc.ErrorInfo and OpenAI's
error object.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

DOMAIN = "qwenserve"

# In UTF-8, about. Beyond ASCII gRPC writes three characters for each byte.
_MESSAGE_BYTES = 1200
_PARAM_BYTES = 300


def short(text: str, most_bytes: int) -> str:
    """Returns a text of about so many bytes at most: what is longer lacks its middle. A remedy stands at the end."""
    characters = most_bytes if text[:most_bytes].isascii() else most_bytes // 3
    if len(text) <= characters:
        return text
    end = characters // 3
    return f"{text[: characters - end]} … {text[-end:]}"


class ServiceError(Exception):
    """An error with a meaning to the caller.

    `param` is the path of the offending field (`messages[2].role`), `metadata` machine-readable facts,
    `retry_after_s` how long to wait where waiting helps.
    """

    reason = "INTERNAL"
    status = grpc.StatusCode.INTERNAL
    http_status = 500
    openai_type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        # What a caller sent may be in them: whole, it would go into logs, and into gRPC's trailers, which are small.
        message = short(message, _MESSAGE_BYTES)
        super().__init__(message)
        self.message = message
        self.param = None if param is None else short(param, _PARAM_BYTES)
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s

    @property
    def code(self) -> str:
        """OpenAI's `code`: the reason in lower case."""
        return self.reason.lower()


class InvalidRequest(ServiceError):
    reason = "INVALID_REQUEST"
    status = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400
    openai_type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    reason = "CONTEXT_LENGTH_EXCEEDED"
    status = grpc.StatusCode.OUT_OF_RANGE


class Unsupported(InvalidRequest):
    reason = "UNSUPPORTED"
    status = grpc.StatusCode.INVALID_ARGUMENT


class Unauthenticated(ServiceError):
    reason = "INVALID_API_KEY"
    status = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401
    openai_type = "authentication_error"


class ForbiddenOrigin(ServiceError):
    reason = "FORBIDDEN_ORIGIN"
    status = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403
    openai_type = "permission_error"


class NotFound(ServiceError):
    reason = "NOT_FOUND"
    status = grpc.StatusCode.NOT_FOUND
    http_status = 404
    openai_type = "invalid_request_error"


class ModelNotFound(NotFound):
    reason = "MODEL_NOT_FOUND"


class NotCached(ServiceError):
    reason = "NOT_CACHED"
    status = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 504  # RFC 9111, section 5.2.1.7
    openai_type = "invalid_request_error"


class MethodNotAllowed(InvalidRequest):
    reason = "METHOD_NOT_ALLOWED"
    http_status = 405


class RequestTimeout(ServiceError):
    reason = "REQUEST_TIMEOUT"
    status = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 408
    openai_type = "invalid_request_error"


class RequestTooLarge(InvalidRequest):
    reason = "REQUEST_TOO_LARGE"
    http_status = 413


class UnsupportedEncoding(InvalidRequest):
    reason = "UNSUPPORTED_ENCODING"
    http_status = 415


class QueueFull(ServiceError):
    reason = "QUEUE_FULL"
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    openai_type = "rate_limit_error"


class RateLimited(ServiceError):
    reason = "RATE_LIMITED"
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    openai_type = "rate_limit_error"


class SlowReader(ServiceError):
    reason = "SLOW_READER"
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    openai_type = "rate_limit_error"


class Unavailable(ServiceError):
    reason = "NO_WORKER"
    status = grpc.StatusCode.UNAVAILABLE
    http_status = 503


class WorkerLost(Unavailable):
    reason = "WORKER_LOST"


class NoRouter(Unavailable):
    reason = "NO_ROUTER"


class RouterLost(Unavailable):
    reason = "ROUTER_LOST"


class Draining(Unavailable):
    reason = "DRAINING"


class DeadlineExceeded(ServiceError):
    reason = "DEADLINE_EXCEEDED"
    status = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504
    openai_type = "timeout_error"


class InternalError(ServiceError):
    pass


def _family(base: type[ServiceError]) -> dict[str, type[ServiceError]]:
    found = {base.reason: base}
    for child in base.__subclasses__():
        found.update(_family(child))
    return found


def by_reason(reason: str) -> type[ServiceError]:
    """Returns the class of a reason that came over the wire; InternalError where it is unknown."""
    return _REASONS.get(reason, InternalError)


_REASONS = _family(ServiceError)
