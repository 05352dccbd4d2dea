"""One answer under way: its choices, its end, and the events that its caller gets.

Everything here runs synchronously inside the session reader: a step's tokens become events of the sink without a
task in between. The order of events of a choice: text and tool calls, `finish`; after the last choice `usage`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.answers.cache import Source
from qwenserve.router.chat.call import Call
from qwenserve.router.chat.choice import Choice, ChoicePlan
from qwenserve.router.chat.interface import EventSink
from qwenserve.router.generation.continuation import Continuations
from qwenserve.router.generation.leg import Choose, Placement
from qwenserve.runtime.errors import DeadlineExceeded, ServiceError
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.values import frozen_value
from qwenserve.text.tokenizer import Tokenizer
from qwenserve.type.v1 import sampling_pb2

_log = EventLog("answer")

# Deadlines that are nearer have a timer of their own. Others are looked at once a second (`end_if_late`): a timer that
# is set and cancelled for every answer costs it more than all such looks.
_EXACT_S = 10.0

ChatEvent = chat_pb2.ChatEvent


@frozen_value
class AnswerOutcome:
    """How an answer went, for logs and metrics. Times are on `time.monotonic()`'s clock, 0 where none; `queue_s` is the
    longest time that a choice waited in a worker's queue."""

    kind: str
    call: Call
    error: ServiceError | None
    cancelled: bool
    usage: sampling_pb2.Usage
    began: float
    first_token: float
    last_token: float
    queue_s: float
    broken_tool_calls: int
    workers: Sequence[str]
    # Of the choices that came to their end.
    finish_reasons: Sequence[sampling_pb2.FinishReason] = ()


def refused(kind: str, call: Call, error: ServiceError | None, began: float) -> AnswerOutcome:
    """The outcome of a request that ended before any engine work: refused, or (None) given up by its caller."""
    return AnswerOutcome(kind, call, error, error is None, sampling_pb2.Usage(), began, 0.0, 0.0, 0.0, 0, ())


class Answer:
    """One request's choices. Owns their submissions: `cancel` or the end of each stops the engine's work."""

    def __init__(
        self,
        kind: str,
        call: Call,
        first: chat_pb2.ChatEvent,
        sink: EventSink,
        tokenizer: Tokenizer,
        *,
        began: float,
        want_token_ids: bool,
        on_end: Callable[[Answer, AnswerOutcome], None],
    ) -> None:
        """`first` is the event with which it starts; the worker's name is filled in when that is known."""
        self.kind = kind
        self.call = call
        self._tokenizer = tokenizer
        self._want_token_ids = want_token_ids
        # None once it is sent.
        self._first: chat_pb2.ChatEvent | None = first
        # None once the answer has ended.
        self._sink: EventSink | None = sink
        self._began = began
        self._on_end = on_end
        self._choices: list[Choice] = []
        self._open = 0
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = math.inf
        self.first_token = 0.0

    def begin(
        self,
        plans: Sequence[ChoicePlan],
        choose: Choose,
        continuations: Continuations,
        *,
        priority: int,
        cache_salt: str,
        timeout_s: float,
        knows_bias: bool = True,
        sources: Sequence[Source] = (),
    ) -> None:
        """Submits every choice. `sources`, where kept answers are in use, say where the choices' legs come from. Raises
        Unavailable or DeadlineExceeded, with nothing left running.
        """
        now = time.monotonic()
        limit = now + timeout_s
        deadline = limit if self.call.deadline is None else min(limit, self.call.deadline)
        if deadline <= now:
            self._sink = None
            raise DeadlineExceeded("the deadline passed before the request could be sent to a worker")
        call = self.call
        placement = Placement(
            choose,
            continuations,
            call.request_id,
            priority,
            cache_salt,
            # What others may join must not end with the request that began it; this answer's own end has a timer.
            limit if sources else deadline,
            knows_bias,
            call.traceparent,
            call.trace,
        )
        for index, plan in enumerate(plans):
            choice = Choice(
                self,
                index,
                plan,
                placement,
                self._tokenizer,
                want_token_ids=self._want_token_ids,
                source=sources[index] if sources else None,
            )
            self._choices.append(choice)
        self._open = len(plans)
        try:
            for choice in self._choices:
                choice.generation.begin()
        except BaseException:
            self._close_choices()
            self._forget_parts()
            raise
        self._deadline = deadline
        if deadline - now < _EXACT_S:
            self._timer = asyncio.get_running_loop().call_later(deadline - now, self.end_if_late, deadline)

    def cancel(self) -> None:
        """Stops the engine's work; the sink hears nothing more. Safe at any time."""
        if self._sink is not None:
            self._end(None, cancelled=True)

    def emit(self, events: list[chat_pb2.ChatEvent]) -> None:
        """Hands events to the sink, with the start before the first of them."""
        sink = self._sink
        if sink is None:
            return
        first = self._first
        if first is not None:
            first.start.worker = self._choices[0].generation.worker
            events.insert(0, first)
            self._first = None
        sink.events(events)

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None] | None:
        """Returns the sink's writer of plain text, once it has had the start."""
        sink = self._sink
        return None if self._first is not None or sink is None else sink.text_writer(choice_index, reasoning)

    def choice_ended(self, events: list[chat_pb2.ChatEvent]) -> None:
        """Takes a choice's last events, and counts it as done; the last one brings the usage and ends the answer."""
        self._open -= 1
        if self._sink is None:
            return
        if self._open:
            if events:
                self.emit(events)
            return
        last = ChatEvent()
        last.usage.SetInParent()
        usage = self._write_usage(last.usage)
        events.append(last)
        self.emit(events)
        if not self.ended:
            self._end(None, usage=usage)

    def fail(self, error: ServiceError) -> None:
        """Ends the answer early: the first failing choice fails all."""
        sink = self._sink
        if sink is not None:
            self._end(error)
            try:
                sink.failed(error)
            except Exception as defect:  # of the sink; the session reader that called us has other answers to serve
                _log.error("sink_failed", request_id=self.call.request_id, exc_info=defect)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._sink is None

    def end_if_late(self, now: float) -> None:
        """Fails it where its deadline has passed."""
        if now >= self._deadline:
            self.fail(DeadlineExceeded(f"the answer was not complete after {self._deadline - self._began:.3g} s"))

    def _end(
        self, error: ServiceError | None, *, cancelled: bool = False, usage: sampling_pb2.Usage | None = None
    ) -> None:
        self._sink = None
        if self._timer is not None:
            self._timer.cancel()
        self._close_choices()
        last_token = queue_s = 0.0
        broken = 0
        workers: set[str] = set()
        reasons: list[sampling_pb2.FinishReason] = []
        for choice in self._choices:
            generation = choice.generation
            last_token = max(last_token, generation.last_token)
            queue_s = max(queue_s, generation.queue_s)
            broken += choice.pipeline.broken_tool_calls
            workers.add(generation.worker)
            if choice.finish_reason is not None:
                reasons.append(choice.finish_reason)
        self._on_end(
            self,
            AnswerOutcome(
                self.kind,
                self.call,
                error,
                cancelled,
                usage or self._write_usage(sampling_pb2.Usage()),
                self._began,
                self.first_token,
                last_token,
                queue_s,
                broken,
                sorted(workers),
                reasons,
            ),
        )
        self._forget_parts()

    def _close_choices(self) -> None:
        for choice in self._choices:
            choice.close()

    def _forget_parts(self) -> None:
        """Breaks the reference cycles that this answer is part of. In them it would stay in memory until the garbage
        collector ran, with thousands of others, and long-lived objects would be scattered among them: the heap grows.
        """
        self._sink = None
        self._choices.clear()

    def _write_usage(self, usage: sampling_pb2.Usage) -> sampling_pb2.Usage:
        """Fills in what the answer has used, and returns it."""
        choices = self._choices
        # Choices of one prompt share it: it is counted once, as OpenAI does, with what its first choice found cached;
        # the others found what the first one had just computed.
        firsts: Collection[Choice] = choices
        if len(choices) > 1:
            firsts = {id(choice.plan.prompt_token_ids): choice for choice in reversed(choices)}.values()
        prompt = cached = answer = thought = continued = 0
        for choice in firsts:
            prompt += len(choice.plan.prompt_token_ids)
            cached += choice.generation.cached_tokens
        for choice in choices:
            pipeline, generation = choice.pipeline, choice.generation
            answer += pipeline.completion_tokens
            thought += pipeline.reasoning_tokens
            continued += generation.continued
            if generation.penalties_approximate:
                usage.penalties_approximate = True
        usage.prompt_tokens = prompt
        usage.completion_tokens = answer
        # Each field that is written costs as much as all the sums.
        if cached:
            usage.cached_tokens = cached
        if thought:
            usage.reasoning_tokens = thought
        if continued:
            usage.continued_legs = continued
        return usage
