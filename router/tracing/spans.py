"""From a traced request and its outcome to spans. Pure.

Names and attributes follow OpenTelemetry's semantic conventions for generative AI where they have one; the others begin
with `qwenserve.`. No text of prompt or answer is among them.

    chat NAME                      the request, a SERVER span whose parent is the caller's
    ├── tokenize                   rendered and tokenized
    ├── route                      workers chosen, submitted
    ├── leg WORKER                 a CLIENT span; one more each time that the answer goes on elsewhere
    │   ├── queue                  in the worker's queue
    │   └── first token            from there to the answer's first token
    └── answer                     from the first token to the last
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from qwenserve.router.chat.answer import AnswerOutcome
from qwenserve.router.outcomes import FINISHES, outcome_name
from qwenserve.router.tracing.request_trace import Attribute, LegTrace, RequestTrace
from qwenserve.runtime.trace_context import TraceContext
from qwenserve.type.v1 import sampling_pb2

_OPERATIONS = {"chat": "chat", "completion": "text_completion"}


class Kind(enum.Enum):
    """Which side of a call a span tells of."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2


class Span(NamedTuple):
    """A finished span. Times are on `time.monotonic()`'s clock. `error` is the reason of a failure, or empty."""

    name: str
    context: TraceContext
    parent: TraceContext | None
    kind: Kind
    began: float
    ended: float
    attributes: Mapping[str, Attribute]
    error: str = ""


def request_attributes(sampling: sampling_pb2.SamplingParams, choices: int) -> dict[str, Attribute]:
    """Returns what a request asks for, with its defaults filled in."""
    found: dict[str, Attribute] = {
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
    }
    if choices != 1:
        found["gen_ai.request.choice.count"] = choices
    return found


def spans_of(trace: RequestTrace, outcome: AnswerOutcome, model: str, ended: float) -> Iterator[Span]:
    """Yields the spans of a request that ended at `ended`."""
    operation = _OPERATIONS[outcome.kind]
    error = "" if outcome.error is None else outcome.error.code
    yield Span(
        f"{operation} {model}",
        trace.context,
        trace.parent,
        Kind.SERVER,
        outcome.began,
        ended,
        {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "qwenserve",
            "gen_ai.request.model": model,
            **trace.attributes,
            **_outcome_attributes(outcome, model),
            **({"error.type": error} if error else {}),
        },
        error,
    )
    for stage in trace.stages:
        yield Span(stage.name, trace.context.child(), trace.context, Kind.INTERNAL, stage.began, stage.ended, {})
    for leg in trace.legs:
        yield from _leg_spans(trace, leg, outcome, leg.ended or ended)
    if outcome.first_token:
        last = max(outcome.first_token, outcome.last_token)
        yield Span("answer", trace.context.child(), trace.context, Kind.INTERNAL, outcome.first_token, last, {})


def _outcome_attributes(outcome: AnswerOutcome, model: str) -> dict[str, Attribute]:
    usage = outcome.usage
    found: dict[str, Attribute] = {
        "qwenserve.request_id": outcome.call.request_id,
        "qwenserve.outcome": outcome_name(outcome),
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    if outcome.finish_reasons:
        found["gen_ai.response.finish_reasons"] = tuple(FINISHES[reason] for reason in outcome.finish_reasons)
    if outcome.first_token:
        found["gen_ai.response.time_to_first_chunk"] = outcome.first_token - outcome.began
    if usage.continued_legs:
        found["qwenserve.continued_legs"] = usage.continued_legs
    return found


def _leg_spans(trace: RequestTrace, leg: LegTrace, outcome: AnswerOutcome, ended: float) -> Iterator[Span]:
    attributes: dict[str, Attribute] = {
        "qwenserve.worker": leg.worker,
        "gen_ai.usage.input_tokens": leg.prompt_tokens,
        "gen_ai.usage.output_tokens": leg.ids,
        **({"error.type": leg.error} if leg.error else {}),
    }
    yield Span(f"leg {leg.worker}", leg.context, trace.context, Kind.CLIENT, leg.began, ended, attributes, leg.error)
    started = min(leg.began + leg.queue_s, ended)
    if leg.queue_s:
        yield Span("queue", leg.context.child(), leg.context, Kind.INTERNAL, leg.began, started, {})
    if started <= outcome.first_token <= ended:
        yield Span("first token", leg.context.child(), leg.context, Kind.INTERNAL, started, outcome.first_token, {})
