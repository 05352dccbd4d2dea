"""One choice of an answer: the text side, which turns the ids of a generation into events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.answers.cache import Source
from qwenserve.router.chat.events import text_event
from qwenserve.router.chat.prompt_scores import PromptScores, write_texts
from qwenserve.router.chat.thinking import ThinkingBudget
from qwenserve.router.generation.generation import Generation
from qwenserve.router.generation.leg import LegGuide, NextLeg, Placement
from qwenserve.runtime.errors import InternalError, ServiceError
from qwenserve.runtime.ids import new_id
from qwenserve.runtime.logs import EventLog
from qwenserve.runtime.values import frozen_value
from qwenserve.text.events import Content, Reasoning, TextEvent, ToolCallStart
from qwenserve.text.pipeline import NO_TEXTS, AnswerPipeline, CompletionPipeline, ScoringPipeline
from qwenserve.text.tokenizer import Tokenizer
from qwenserve.type.v1 import sampling_pb2
from qwenserve.worker.v1 import worker_pb2

_log = EventLog("answer")

_STOP = sampling_pb2.FINISH_REASON_STOP
_LENGTH = sampling_pb2.FINISH_REASON_LENGTH
_TOOL_CALLS = sampling_pb2.FINISH_REASON_TOOL_CALLS

ChatEvent = chat_pb2.ChatEvent


@frozen_value
class ChoicePlan:
    """What one choice needs: its prompt, complete sampling, and a fresh pipeline. An engine gives no id after one of
    `end_ids`. `lead` is sent before its text, with `prompt_scores` as they come. `behind_thought` are ids that follow
    the end of a thought before its guide begins.
    """

    prompt_token_ids: Sequence[int]
    sampling: sampling_pb2.SamplingParams
    pipeline: AnswerPipeline | CompletionPipeline
    end_ids: frozenset[int] = frozenset()
    lead: str = ""
    thinking: ThinkingBudget | None = None
    prompt_scores: PromptScores | None = None
    guide: LegGuide | None = None
    behind_thought: Sequence[int] = ()


class Listener(Protocol):
    """The answer that a choice belongs to, as the choice sees it."""

    # When the first token of any choice came; 0 before.
    first_token: float

    def emit(self, events: list[chat_pb2.ChatEvent]) -> None:
        """Takes new events."""

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None] | None:
        """Returns what takes deltas of plain text, or None where there is no such thing yet."""

    def choice_ended(self, events: list[chat_pb2.ChatEvent]) -> None:
        """Takes a choice's last events."""

    def fail(self, error: ServiceError) -> None:
        """Ends all choices with an error."""


class Choice:
    """The text side of one choice. Implements `router.generation.generation.Receiver`."""

    __slots__ = (
        "_index",
        "_kept",
        "_lead_due",
        "_leads",
        "_listener",
        "_request_id",
        "_scores_said",
        "_source",
        "_text_ended",
        "_thinking_cut",
        "_tracked",
        "finish_reason",
        "generation",
        "pipeline",
        "plan",
    )

    def __init__(
        self,
        listener: Listener,
        index: int,
        plan: ChoicePlan,
        placement: Placement,
        tokenizer: Tokenizer,
        *,
        want_token_ids: bool,
        source: Source | None = None,
    ) -> None:
        """`source` says where its legs come from, where kept answers are in use."""
        self.plan = plan
        self.pipeline = plan.pipeline
        self._source = source
        if source is not None:
            source.open(self, placement.choose)
        # A kept answer is whole: what was appended to it, and where its guide began, is in its ids.
        kept = None if source is None else source.kept
        # None before its end.
        self.finish_reason: sampling_pb2.FinishReason | None = None
        self.generation = Generation(
            plan.prompt_token_ids,
            plan.sampling,
            plan.end_ids,
            placement,
            self,
            pause_at=_first_pause(plan) if kept is None else None,
            prompt_logprobs=plan.prompt_scores,
            guide=plan.guide if kept is None else None,
            choose=None if source is None or source.leads else source.choose,
        )
        self._listener = listener
        self._index = index
        self._request_id = placement.request_id
        self._lead_due = bool(plan.lead)
        # Whether anything comes before the text.
        self._leads = self._lead_due or plan.prompt_scores is not None
        # How many of the prompt's log-probabilities have been sent.
        self._scores_said = 0
        if plan.prompt_scores is not None:
            plan.prompt_scores.on_more = self._more_scores
        self._text_ended = False
        self._thinking_cut = kept is not None and kept.thinking_cut
        tracked = want_token_ids or plan.sampling.HasField("top_logprobs")
        self._tracked = _Tracked(tokenizer, with_ids=want_token_ids) if tracked else None
        # Events of the message that ends the choice: they leave with the end, in one write.
        self._kept: list[chat_pb2.ChatEvent] | None = None

    def close(self) -> None:
        """Stops the engine's work for this choice, and listening to it. Its counts stay."""
        if self.plan.prompt_scores is not None:
            self.plan.prompt_scores.on_more = None
        self._count_plain()
        self.generation.close()
        if self._source is not None:
            self._source.close()

    def follow(self, generation: Generation) -> None:
        """Goes on with another generation, which has the same ids so far."""
        self.generation = generation
        self._set_fast_path()

    def take(self, ids: Sequence[int], logprobs: Sequence[sampling_pb2.TokenLogprob]) -> None:
        """Sends ids through the pipeline, and its events to the answer."""
        if logprobs and self._source is not None:
            self._source.note(logprobs)
        if self._text_ended:
            return
        listener, pipeline = self._listener, self.pipeline
        if not listener.first_token:
            listener.first_token = self.generation.last_token
        self._count_plain(but=len(ids))
        before = pipeline.completion_tokens
        pushed = pipeline.push(ids)
        if self._tracked is not None:
            # Ids after the end of the text are none of the answer's.
            taken = pipeline.completion_tokens - before
            self._tracked.take(ids[:taken], logprobs[:taken])
        events = self._lead() if self._leads else []
        events += map(self._to_event, pushed)
        if pipeline.wants_stop:
            self._end_text(events, None)
            self.generation.stop()
        if self._kept is not None:
            self._kept += events
            return
        if events:
            listener.emit(events)
        self._set_fast_path()

    def ending(self) -> None:
        """Keeps what comes until `ended`."""
        self._kept = []
        if self.generation.fast_path_open:
            self.generation.open_fast_path(self.pipeline.plain_texts, self._keep_text)

    def paused(self) -> NextLeg:
        """Closes a thought whose budget is spent; lets one that is not go on for what is left. Behind a thought a guide
        may begin.
        """
        self._count_plain()
        budget, pipeline, guide = self.plan.thinking, self.pipeline, self.plan.guide
        guided = guide is not None and bool(guide.behind)
        if budget is None or not pipeline.thinking:
            return NextLeg(self.plan.behind_thought if guided else (), guided=guided)
        left = budget.tokens - pipeline.reasoning_tokens
        if left > 0:
            return NextLeg(limit=left)
        self._thinking_cut = True
        return NextLeg(budget.closing, guided=guided)

    def keeps(self, token_id: int) -> bool:
        """Keeps what comes after the budget where the thought ends with it, or had ended before."""
        self._count_plain()
        budget = self.plan.thinking
        return budget is None or not self.pipeline.thinking or token_id in budget.ends

    def ended(self, finish: worker_pb2.Finish) -> None:
        """Ends the text, where it has not ended by itself, and the choice."""
        source, self._source = self._source, None
        if source is not None:
            source.ended(finish, self._thinking_cut)
        events, self._kept = self._kept or [], None
        self._count_plain()
        if not self._text_ended:
            self._end_text(events, finish)
        self._listener.choice_ended(events)

    def failed(self, error: ServiceError) -> None:
        """Fails the answer."""
        self._listener.fail(error)

    def defect(self, error: Exception) -> None:
        """Fails the answer for a defect of ours or of its sink."""
        _log.error("answer_failed", request_id=self._request_id, exc_info=error)
        self._listener.fail(InternalError("internal error; the router's log has the details"))

    def _keep_text(self, text: str) -> None:
        """Stands in for the sink's writer while events are collected to leave with the end."""
        assert self._kept is not None
        self._kept.append(text_event(self._index, text, self.pipeline.plain_reasoning))

    def _set_fast_path(self) -> None:
        """Opens the fast path of the generation, or closes it, as the pipeline's state requires."""
        texts = self.pipeline.plain_texts
        if texts is not NO_TEXTS and self._tracked is None and not self._text_ended:
            write = self._listener.text_writer(self._index, self.pipeline.plain_reasoning)
            if write is not None:
                self.generation.open_fast_path(texts, write)
                return
        self.generation.close_fast_path()

    def _count_plain(self, but: int = 0) -> None:
        """Tells the pipeline of the ids that went past it, on the fast path; the last `but` ids did not."""
        if not self._text_ended:
            passed = len(self.generation.ids) - but - self.pipeline.completion_tokens
            if passed:
                self.pipeline.count_plain(passed)

    def _more_scores(self) -> None:
        """Sends what has come of the prompt's log-probabilities. Those of a long prompt, written all at once,
        would hold up every other answer.
        """
        if self._text_ended:
            return
        try:
            events = self._lead()
            if self._kept is not None:
                self._kept += events
            elif events:
                self._listener.emit(events)
        except Exception as fault:  # the session reader that called has other answers to serve
            self.defect(fault)

    def _lead(self) -> list[chat_pb2.ChatEvent]:
        """Returns what comes before the text and is not sent yet: the echoed prompt, and its log-probabilities."""
        scores = self.plan.prompt_scores
        if not self._lead_due and (scores is None or self._scores_said == len(scores.items)):
            return []
        event = text_event(self._index, self.plan.lead if self._lead_due else "", False)
        self._lead_due = False
        if scores is not None:
            event.of_prompt = True
            event.logprobs.extend(scores.items[self._scores_said :])
            self._scores_said = max(self._scores_said, len(scores.items))
        return [event]

    def _end_text(self, events: list[chat_pb2.ChatEvent], finish: worker_pb2.Finish | None) -> None:
        self._text_ended = True
        pipeline = self.pipeline
        if self._leads:
            events += self._lead()
        stopped = finish is not None and finish.reason == _STOP
        # An event without text only accounts for ids: where nobody asked for those it would be one of nothing.
        for left in pipeline.finish(stopped=stopped):
            if self._tracked is not None or _says_something(left):
                events.append(self._to_event(left))
        last = ChatEvent(choice_index=self._index)
        ending = last.finish
        ending.SetInParent()
        ending.reason = _STOP if finish is None else finish.reason
        if self._thinking_cut:
            ending.thinking_cut = True
        if isinstance(pipeline, ScoringPipeline):
            ending.reason = _LENGTH
        elif pipeline.stop_string is not None:
            ending.reason = _STOP
            ending.stop_string = pipeline.stop_string
        elif finish is not None and finish.HasField("stop_token_id"):
            ending.stop_token_id = finish.stop_token_id
        # A tool call that was cut short must not be executed, so the finish reason is not `tool_calls`.
        whole_calls = pipeline.has_tool_calls and not pipeline.has_cut_call
        if whole_calls and ending.reason == _STOP and pipeline.stop_string is None:
            ending.reason = _TOOL_CALLS
        self.finish_reason = ending.reason
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


def _says_something(event: TextEvent) -> bool:
    return not isinstance(event, (Content, Reasoning)) or bool(event.text)


def _first_pause(plan: ChoicePlan) -> int | None:
    """Returns after how many ids the thinking budget is first checked: the budget itself where the prompt has opened
    the thought; one id more where the model writes the opening tag itself.
    """
    budget = plan.thinking
    return None if budget is None else budget.tokens + (not plan.pipeline.thinking)


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
            write_texts(item, tokenizer)
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
