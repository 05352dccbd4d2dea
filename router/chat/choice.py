"""One choice of an answer: a submission to a worker, and the text pipeline that turns its ids into events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.chat.events import text_event
from qwenserve.router.clients.worker_session import WorkerSession
from qwenserve.runtime.errors import InternalError, ServiceError, by_reason
from qwenserve.runtime.ids import new_id
from qwenserve.runtime.logs import EventLog
from qwenserve.text.events import Content, Reasoning, TextEvent, ToolCallStart
from qwenserve.text.pipeline import NO_TEXTS, AnswerPipeline, CompletionPipeline
from qwenserve.text.tokenizer import Tokenizer
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2

if TYPE_CHECKING:
    from qwenserve.router.chat.answer import Answer

_log = EventLog("answer")

_STOP = sampling_pb2.FINISH_REASON_STOP
_TOOL_CALLS = sampling_pb2.FINISH_REASON_TOOL_CALLS

ChatEvent = chat_pb2.ChatEvent


class ChoicePlan(NamedTuple):
    """What one choice needs: its prompt, complete sampling, and a fresh pipeline. `lead` is sent before its text."""

    prompt_token_ids: Sequence[int]
    sampling: sampling_pb2.SamplingParams
    pipeline: AnswerPipeline | CompletionPipeline
    lead: str = ""


class Placing(NamedTuple):
    """How the choices of an answer reach workers. `choose` returns the best worker for a prompt, without those whose
    addresses it is given; it raises Unavailable. `deadline` is on `time.monotonic()`'s clock.
    """

    choose: Callable[[Sequence[int], frozenset[str]], WorkerSession]
    priority: int
    cache_salt: str
    deadline: float


class Choice:
    """One choice: a submission to a worker and the pipeline that turns its ids into events."""

    __slots__ = (
        "_answer",
        "_handle",
        "_index",
        "_kept",
        "_lead",
        "_placing",
        "_session",
        "_text_ended",
        "_texts",
        "_tracked",
        "_tried",
        "_uncounted",
        "_write",
        "cached_tokens",
        "last_token",
        "pipeline",
        "plan",
        "queue_s",
        "worker",
    )

    def __init__(
        self,
        answer: Answer,
        index: int,
        plan: ChoicePlan,
        placing: Placing,
    ) -> None:
        self.plan = plan
        self.pipeline = plan.pipeline
        self.cached_tokens = 0
        self.queue_s = 0.0
        self.last_token = 0.0
        self._answer = answer
        self._index = index
        self._placing = placing
        self._lead = plan.lead
        # Name of the worker that has it.
        self.worker = ""
        self._session: WorkerSession | None = None
        self._handle = 0
        self._tried: frozenset[str] = frozenset()
        self._text_ended = False
        # The short way of a token to the sink, where it is open: texts of ids, and what takes such a text. The pipeline
        # hears of the tokens that took it when it is next needed.
        self._texts = NO_TEXTS
        self._write: Callable[[str], None] = _nowhere
        self._uncounted = 0
        tracked = answer.want_token_ids or plan.sampling.HasField("top_logprobs")
        self._tracked = _Tracked(answer.tokenizer, with_ids=answer.want_token_ids) if tracked else None
        # Events of the message that ends the choice: they leave with the end, in one write.
        self._kept: list[chat_pb2.ChatEvent] | None = None

    def submit(self) -> None:
        """Sends the request to the best worker not tried yet. Raises Unavailable."""
        placing = self._placing
        session = placing.choose(self.plan.prompt_token_ids, self._tried)
        self._tried |= {session.address}
        self._session = session
        self.worker = session.name
        self._handle = session.submit(
            self,
            self.plan.prompt_token_ids,
            self.plan.sampling,
            request_id=self._answer.call.request_id,
            priority=placing.priority,
            deadline=placing.deadline,
            cache_salt=placing.cache_salt,
        )

    def abandon(self) -> None:
        """Stops the engine's work for this choice, and listening to it."""
        if self._handle and self._session is not None:
            self._session.abort(self._handle)
            self._session.forget(self._handle)
            self._handle = 0
        self._count()

    def token(self, token_id: int, now: float) -> None:
        """Turns one new id into a delta. The hot path of the whole tier."""
        text = self._texts[token_id]
        if text is None:
            self.tokens((token_id,), (), now)
            return
        self._uncounted += 1
        self.last_token = now
        try:
            self._write(text)
        except Exception as defect:  # one stream's defect must not end its neighbours in the reader
            self._defect(defect)

    def tokens(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob], now: float) -> None:
        """Turns new ids into events."""
        if self._text_ended:
            return
        self.last_token = now
        try:
            if self._texts is not NO_TEXTS:
                plain = [text for token_id in ids if (text := self._texts[token_id]) is not None]
                if len(plain) == len(ids):
                    self._uncounted += len(plain)
                    self._write("".join(plain))
                    return
            self._push(ids, logprobs)
        except Exception as defect:  # as above
            self._defect(defect)

    def finishing(self) -> None:
        """Keeps what comes until `finished`."""
        self._kept = []
        if self._texts is not NO_TEXTS:
            self._write = self._keep_text

    def finished(self, finish: worker_pb2.Finish) -> None:
        """Takes the worker's end of the request."""
        self._handle = 0
        self._count()
        events, self._kept = self._kept or [], None
        self._texts, self._write = NO_TEXTS, _nowhere  # `_keep_text` is this object's own: a circle
        try:
            # Where the text has ended, whatever became of the engine's work afterwards is no failure of the answer.
            if finish.error_reason and not self._text_ended:
                if events:
                    self._answer.emit(events)
                self._failed(finish)
                return
            self.cached_tokens = max(0, finish.cached_tokens)
            self.queue_s = finish.queue_us / 1e6
            if not self._text_ended:
                self._end_text(events, finish)
            self._answer.choice_ended(events)
        except Exception as defect:
            self._defect(defect)

    def lost(self, error: ServiceError) -> None:
        """Goes to another worker where nothing was generated yet; else fails."""
        self._handle = 0
        self._count()
        try:
            if self._text_ended:
                self._answer.choice_ended([])
            else:
                self._retry(error)
        except Exception as defect:
            self._defect(defect)

    def _push(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob]) -> None:
        """Sends ids through the pipeline."""
        answer, pipeline = self._answer, self.pipeline
        if not answer.first_token:
            answer.first_token = self.last_token
        self._count()
        before = pipeline.completion_tokens
        pushed = pipeline.push(ids)
        if self._tracked is not None:
            # Ids after the end of the text are none of the answer's.
            taken = pipeline.completion_tokens - before
            self._tracked.take(ids[:taken], logprobs[:taken])
        events: list[chat_pb2.ChatEvent] = []
        if self._lead:
            self._say_lead(events)
        events += map(self._to_event, pushed)
        if pipeline.wants_stop:
            self._end_text(events, None)
            if self._session is not None and self._kept is None:
                self._session.abort(self._handle)
        if self._kept is not None:
            self._kept += events
            return
        if events:
            answer.emit(events)
        self._open_short_way()

    def _keep_text(self, text: str) -> None:
        """Takes the place of the sink's writer while events are kept."""
        assert self._kept is not None
        self._kept.append(text_event(self._index, text, self.pipeline.plain_reasoning))

    def _open_short_way(self) -> None:
        """Opens the short way, or closes it, as the pipeline's state wants."""
        self._texts = NO_TEXTS
        texts = self.pipeline.plain_texts
        if texts is NO_TEXTS or self._tracked is not None:
            return
        write = self._answer.text_writer(self._index, self.pipeline.plain_reasoning)
        if write is not None:
            self._texts, self._write = texts, write

    def _count(self) -> None:
        """Tells the pipeline of the tokens that took the short way."""
        if self._uncounted:
            self.pipeline.took(self._uncounted)
            self._uncounted = 0

    def _failed(self, finish: worker_pb2.Finish) -> None:
        error_class = by_reason(finish.error_reason)
        error = error_class(finish.error_message, retry_after_s=1.0 if error_class.http_status in (429, 503) else None)
        if finish.error_reason in ("DRAINING", "QUEUE_FULL", "WORKER_LOST"):
            self._retry(error)
        else:
            self._answer.fail(error)

    def _retry(self, error: ServiceError) -> None:
        if self._answer.ended:
            return
        if self.pipeline.completion_tokens:
            self._answer.fail(error)
            return
        try:
            self.submit()
        except ServiceError:
            self._answer.fail(error)

    def _defect(self, defect: Exception) -> None:
        _log.error("answer_failed", request_id=self._answer.call.request_id, exc_info=defect)
        self._answer.fail(InternalError("internal error; the router's log has the details"))

    def _say_lead(self, events: list[chat_pb2.ChatEvent]) -> None:
        events.append(text_event(self._index, self._lead, False))
        self._lead = ""

    def _end_text(self, events: list[chat_pb2.ChatEvent], finish: worker_pb2.Finish | None) -> None:
        self._text_ended = True
        self._texts = NO_TEXTS
        pipeline = self.pipeline
        if self._lead:
            self._say_lead(events)
        events += map(self._to_event, pipeline.finish())
        ending = chat_pb2.ChoiceFinish(reason=_STOP if finish is None else finish.reason)
        if pipeline.stop_string is not None:
            ending.reason = _STOP
            ending.stop_string = pipeline.stop_string
        elif finish is not None and finish.HasField("stop_token_id"):
            ending.stop_token_id = finish.stop_token_id
        if pipeline.has_tool_calls and ending.reason == _STOP and pipeline.stop_string is None:
            ending.reason = _TOOL_CALLS
        last = ChatEvent(choice_index=self._index, finish=ending)
        if self._tracked is not None:
            self._tracked.attach_all(last)
        events.append(last)

    def _to_event(self, event: TextEvent) -> chat_pb2.ChatEvent:
        if isinstance(event, (Content, Reasoning)):
            made = text_event(self._index, event.text, isinstance(event, Reasoning))
        elif isinstance(event, ToolCallStart):
            start = chat_pb2.ToolCallStart(index=event.call, id=f"call_{new_id()}", name=event.name)
            made = ChatEvent(choice_index=self._index, tool_call_start=start)
        else:
            arguments = chat_pb2.ToolCallArguments(index=event.call, delta=event.text)
            made = ChatEvent(choice_index=self._index, tool_call_arguments=arguments)
        if self._tracked is not None:
            self._tracked.attach(made, event.tokens)
        return made


class _Tracked:
    """Tokens whose event has not been sent yet, kept only where the caller wants them reported."""

    __slots__ = ("_ids", "_logprobs", "_tokenizer", "_with_ids")

    def __init__(self, tokenizer: Tokenizer, *, with_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._with_ids = with_ids
        self._ids: deque[int] = deque()
        self._logprobs: deque[sampling_pb2.TokenLogprob] = deque()

    def take(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob]) -> None:
        """Keeps tokens, and writes their texts into their log-probabilities."""
        self._ids.extend(ids)
        tokenizer = self._tokenizer
        for item in logprobs:
            item.token = tokenizer.token_text(item.token_id)
            item.token_bytes = tokenizer.token_bytes(item.token_id)
            for top in item.top_logprobs:
                top.token = tokenizer.token_text(top.token_id)
                top.token_bytes = tokenizer.token_bytes(top.token_id)
            self._logprobs.append(item)

    def attach(self, event: chat_pb2.ChatEvent, count: int) -> None:
        """Moves the next `count` tokens to the event that accounts for them."""
        count = min(count, len(self._ids))
        ids = [self._ids.popleft() for _ in range(count)]
        if self._with_ids:
            event.token_ids.extend(ids)
        if self._logprobs:
            event.logprobs.extend([self._logprobs.popleft() for _ in range(min(count, len(self._logprobs)))])

    def attach_all(self, event: chat_pb2.ChatEvent) -> None:
        """Moves all tokens that are left."""
        self.attach(event, len(self._ids))


def _nowhere(text: str) -> None:
    """Stands for the sink's writer while the short way is closed."""
