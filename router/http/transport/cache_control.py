"""The request header `Cache-Control`, as far as it concerns kept answers. Source: RFC 9111, section 5.2.1."""

from __future__ import annotations

from qwenserve.chat.v1 import chat_pb2

_MAX_INT32 = 2**31 - 1


def apply_cache_control(header: str | None, policy: chat_pb2.CachePolicy) -> None:
    """Writes what a header asks for into a request's policy; it can only ask for less than the body allows.

    `no-store`: off. `no-cache`: no kept answer, however young. `max-age=N`: none older than N seconds.
    `only-if-cached`: a kept answer or an error. What else it says is not for this server, as the RFC wants.
    """
    for directive in (header or "").lower().split(","):
        name, _, value = directive.strip().partition("=")
        if name == "no-store":
            policy.mode = chat_pb2.CACHE_MODE_OFF
        elif name == "only-if-cached":
            policy.only_if_cached = True
        elif name == "no-cache":
            policy.max_age_s = 0
        elif name == "max-age":
            digits = value.strip().strip('"')
            # One that cannot be read is taken for the strictest: a stale answer would be worse than a fresh one.
            seconds = int(digits[:12]) if digits.isascii() and digits.isdigit() else 0
            policy.max_age_s = min(seconds, _MAX_INT32, policy.max_age_s if policy.HasField("max_age_s") else seconds)
