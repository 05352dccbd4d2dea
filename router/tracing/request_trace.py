"""What is written down of a traced request while it is served: times and counts, never a text. Plain values."""

from __future__ import annotations

import time
from typing import NamedTuple, TypeAlias

from qwenserve.runtime.trace_context import TraceContext

Attribute: TypeAlias = "str | bool | int | float | tuple[str, ...]"


class Stage(NamedTuple):
    """Something that was done between two times on `time.monotonic()`'s clock."""

    name: str
    began: float
    ended: float


class LegTrace:
    """One submission to one worker. `began` and `ended` are on `time.monotonic()`'s clock; `ended` is 0 before."""

    __slots__ = ("began", "context", "ended", "error", "ids", "prompt_tokens", "queue_s", "worker")

    def __init__(self, context: TraceContext, worker: str, prompt_tokens: int) -> None:
        self.context = context
        self.worker = worker
        self.prompt_tokens = prompt_tokens
        self.began = time.monotonic()
        self.ended = 0.0
        self.queue_s = 0.0
        self.ids = 0
        # The reason of an error; empty where it ended as it should.
        self.error = ""

    def end(self, ids: int, *, queue_s: float = 0.0, error: str = "") -> None:
        """Notes the end, and how many ids it brought."""
        self.ended = time.monotonic()
        self.ids = ids
        self.queue_s = queue_s
        self.error = error


class RequestTrace:
    """A traced request: its span, its caller's, and what happened in between."""

    __slots__ = ("attributes", "context", "legs", "parent", "stages")

    def __init__(self, context: TraceContext, parent: TraceContext | None) -> None:
        self.context = context
        self.parent = parent
        self.stages: list[Stage] = []
        self.legs: list[LegTrace] = []
        # Of the request's own span, besides those that its outcome tells.
        self.attributes: dict[str, Attribute] = {}

    def stage(self, name: str, began: float) -> None:
        """Notes a stage that ends now."""
        self.stages.append(Stage(name, began, time.monotonic()))

    def leg(self, worker: str, prompt_tokens: int) -> LegTrace:
        """Notes that a leg begins now."""
        made = LegTrace(self.context.child(), worker, prompt_tokens)
        self.legs.append(made)
        return made
