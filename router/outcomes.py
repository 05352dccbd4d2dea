"""One log event and one set of metrics for every answer that ends. Never any text of prompt or answer."""

from __future__ import annotations

import time

from qwenserve.router.chat.answer import AnswerOutcome
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.metrics import RouterMetrics
from qwenserve.type.v1 import sampling_pb2

FINISHES = {number: name.removeprefix("FINISH_REASON_").lower() for name, number in sampling_pb2.FinishReason.items()}


class OutcomeRecorder:
    """Called once per answer, however it ended."""

    def __init__(self, metrics: RouterMetrics) -> None:
        self._metrics = metrics
        self._log = EventLog("answer")
        self._queue_stage = metrics.stage.labels("queue")

    def __call__(self, outcome: AnswerOutcome) -> None:
        """Records an outcome."""
        now = time.monotonic()
        name = outcome_name(outcome)
        self._count(outcome, name, now)
        if not self._log.shows_info and outcome.error is None:
            return
        usage = outcome.usage
        fields = {
            "request_id": outcome.call.request_id,
            "kind": outcome.kind,
            "outcome": name,
            "workers": list(outcome.workers),
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "first_token_ms": round((outcome.first_token - outcome.began) * 1000, 2) if outcome.first_token else None,
            "duration_ms": round((now - outcome.began) * 1000, 2),
        }
        if usage.continued_legs:
            fields["continued_legs"] = usage.continued_legs
        if usage.penalties_approximate:
            fields["penalties_approximate"] = True
        if outcome.call.trace is not None:
            fields["trace_id"] = f"{outcome.call.trace.context.trace_id:032x}"
        if outcome.call.traceparent:
            fields["traceparent"] = outcome.call.traceparent
        if outcome.call.key_id:
            fields["key"] = outcome.call.key_id
        if outcome.call.user:
            fields["user"] = outcome.call.user
        if outcome.call.labels:
            fields["metadata"] = dict(outcome.call.labels)
        if outcome.error is None:
            self._log.info_of("answer", fields)
        elif outcome.error.http_status < 500:
            # Caused by the caller: nothing that an operator should look at.
            self._log.info("answer", **fields, error=outcome.error.message)
        else:
            self._log.warning("answer", **fields, error=outcome.error.message)

    def _count(self, outcome: AnswerOutcome, name: str, now: float) -> None:
        metrics, usage = self._metrics, outcome.usage
        metrics.requests.labels(outcome.kind, name).inc()
        if outcome.error is not None:
            metrics.errors.labels(outcome.error.reason).inc()
        prompt_tokens, completion_tokens = usage.prompt_tokens, usage.completion_tokens
        metrics.prompt_tokens.inc(prompt_tokens)
        metrics.cached_tokens.inc(usage.cached_tokens)
        metrics.completion_tokens.inc(completion_tokens)
        if reasoning_tokens := usage.reasoning_tokens:
            metrics.reasoning_tokens.inc(reasoning_tokens)
        if continued_legs := usage.continued_legs:
            metrics.continued_legs.inc(continued_legs)
        if outcome.broken_tool_calls:
            metrics.broken_tool_calls.inc(outcome.broken_tool_calls)
        metrics.duration.observe(now - outcome.began)
        for reason in outcome.finish_reasons:
            metrics.finishes.labels(FINISHES[reason]).inc()
        if outcome.queue_s:
            self._queue_stage.observe(outcome.queue_s)
        if outcome.first_token:
            metrics.prompt_length.observe(prompt_tokens)
            metrics.answer_length.observe(completion_tokens)
            metrics.first_token.observe(outcome.first_token - outcome.began)
            if completion_tokens > 1:
                gap = (outcome.last_token - outcome.first_token) / (completion_tokens - 1)
                metrics.token_gap.observe(gap)


def outcome_name(outcome: AnswerOutcome) -> str:
    """Returns `ok`, `cancelled`, or the reason of the error in lower case."""
    if outcome.cancelled:
        return "cancelled"
    return "ok" if outcome.error is None else outcome.error.reason.lower()
