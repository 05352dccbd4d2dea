"""W3C trace context: which trace a call belongs to, and which span of it is its parent. Pure, but for random ids.

Source: https://www.w3.org/TR/trace-context/, version 00; of later versions the same four fields are read.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

_SAMPLED = 1


class TraceContext(NamedTuple):
    """A span. `trace_id` has 128 bits and `span_id` 64, neither is 0. `sampled`: whoever began the trace records it."""

    trace_id: int
    span_id: int
    sampled: bool

    @property
    def header(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"

    def child(self) -> TraceContext:
        """Returns a new span of the same trace."""
        return self._replace(span_id=_new_id(64))


def new_trace(sampled: bool) -> TraceContext:
    """Returns the first span of a new trace."""
    return TraceContext(_new_id(128), _new_id(64), sampled)


def read_traceparent(header: str) -> TraceContext | None:
    """Returns what a well-formed `traceparent` says; None for an empty or a meaningless one."""
    if not header:
        return None
    version, trace_id, span_id, flags = header.split("-")[:4]
    found = TraceContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED))
    return found if version != "ff" and found.trace_id and found.span_id else None


def _new_id(bits: int) -> int:
    return secrets.randbits(bits) or 1
