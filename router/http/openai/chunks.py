"""Events as server-sent chunks in OpenAI's form: `render` takes events and returns text, ready to send.

What is the same in every chunk of an answer is put together once, at its start; a token then costs one escape
and one join. Deltas of one kind that arrive together leave as one chunk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from qwenserve.chat.v1 import chat_pb2
from qwenserve.router.http.openai import parts
from qwenserve.router.http.transport.sse import Frame
from qwenserve.runtime.json_text import quoted
from qwenserve.runtime.values import frozen_value
from qwenserve.type.v1 import sampling_pb2

DONE = "data: [DONE]\n\n"


@frozen_value
class ChunkPlan:
    """What a stream is to contain. `choices` counts all of them, over all prompts. `usage_so_far` puts the token counts
    of its choice so far into every chunk; the events must come with token ids then.
    """

    choices: int
    prompts: int
    include_usage: bool
    usage_so_far: bool
    shown: parts.Shown


class Chunks:
    """Renders one answer's events. The first one must be `start`; `usage` is the last.

    Nothing is sized by the plan before `start`: until then nobody has checked its numbers.
    """

    object_name = ""
    # Whether thought text is text like any other.
    _raw = False

    def __init__(self, plan: ChunkPlan) -> None:
        self._plan = plan
        self._plain = not (plan.shown.logprobs or plan.shown.token_ids or plan.usage_so_far)
        self._hides_reasoning = not plan.shown.reasoning
        self._opening = ""
        # Of text deltas, by choice and whether they are reasoning; made when first needed.
        self._frames: dict[tuple[int, bool], Frame] = {}
        self._choice_tail = '}],"usage":null}\n\n' if plan.include_usage else "}]}\n\n"
        # Tokens so far of each choice, where every chunk tells them.
        self._counts: list[int] = []
        self.started: chat_pb2.StreamStart | None = None
        self.usage: sampling_pb2.Usage | None = None

    def render(self, events: Sequence[chat_pb2.ChatEvent]) -> str:
        """Returns the chunks of these events; empty where they have none."""
        plain = self._plain
        pieces: list[str] = []
        text = ""
        frame: Frame | None = None
        for event in events:
            kind = event.WhichOneof("event")
            if self._counts:
                self._counts[event.choice_index] += len(event.token_ids)
            if kind == "reasoning_delta" and self._hides_reasoning:
                continue
            if plain and (kind == "content_delta" or kind == "reasoning_delta"):
                reasoning = kind == "reasoning_delta"
                next_frame = self._frame(event.choice_index, reasoning)
                if text and frame is not None and next_frame is not frame:
                    pieces.append(frame.chunk(text))
                    text = ""
                frame = next_frame
                text += event.reasoning_delta if reasoning else event.content_delta
                continue
            if text and frame is not None:
                pieces.append(frame.chunk(text))
                text = ""
            pieces.append(self._chunk(kind, event))
        if text and frame is not None:
            pieces.append(frame.chunk(text))
        return "".join(pieces)

    def text_frame(self, choice_index: int, reasoning: bool) -> Frame | None:
        """Returns the frame of a choice's deltas of plain text, which hold what `render` makes of their events; None
        where they are not shown, or chunks tell more than their text.
        """
        return (
            None if not self._plain or (reasoning and self._hides_reasoning) else self._frame(choice_index, reasoning)
        )

    def _frame(self, choice_index: int, reasoning: bool) -> Frame:
        frame = self._frames.get((choice_index, reasoning))
        if frame is None:
            if self.started is None or choice_index >= self._plan.choices:
                raise ValueError("no such choice, or its answer has not started")
            frame = self._frames[choice_index, reasoning] = self._new_frame(choice_index, reasoning)
        return frame

    def _new_frame(self, choice_index: int, reasoning: bool) -> Frame:
        raise NotImplementedError

    def _delta(self, kind: str, event: chat_pb2.ChatEvent) -> str:
        """Returns the members of a choice that carry an event's own payload."""
        raise NotImplementedError

    def _begin(self, start: chat_pb2.StreamStart) -> str:
        """Returns the chunks that come before any token."""
        raise NotImplementedError

    def _logprobs(self, event: chat_pb2.ChatEvent) -> dict[str, Any]:
        raise NotImplementedError

    def _chunk(self, kind: str | None, event: chat_pb2.ChatEvent) -> str:
        if kind == "start":
            self.started = start = event.start
            self._opening = (
                f'data: {{"id":{quoted(start.id)},"object":"{self.object_name}",'
                f'"created":{start.created},"model":{quoted(start.model)},'
                f'"system_fingerprint":{quoted(start.system_fingerprint)},"choices":['
            )
            if self._plan.usage_so_far:
                self._counts = [0] * self._plan.choices
            return self._begin(start)
        if kind == "usage":
            self.usage = event.usage
            if not self._plan.include_usage:
                return DONE
            return f'{self._opening}],"usage":{parts.usage(event.usage)}}}\n\n{DONE}'
        if kind is None:
            return ""
        reason = "null"
        if kind == "finish":
            told = parts.FINISH_REASONS[event.finish.reason]
            reason = "null" if told is None else quoted(told)
            stopped_by = parts.stop_reason(event.finish, self._plan.shown.stop_ids)
            if stopped_by is not None:
                reason += f',"stop_reason":{json.dumps(stopped_by)}'
            reason += parts.thinking_cut(event.finish)
        delta = self._delta(kind, event)
        logprobs = "null"
        shown = self._plan.shown
        if shown.logprobs and event.logprobs and (kind != "reasoning_delta" or shown.thought_logprobs or self._raw):
            logprobs = json.dumps(self._logprobs(event), ensure_ascii=False)
        extra = f',"token_ids":{list(event.token_ids)}' if self._plan.shown.token_ids else ""
        return self._choice_chunk(event.choice_index, delta, logprobs, reason, extra)

    def _text_tail(self) -> str:
        """Returns what follows a delta's own members in a chunk of plain text."""
        return ',"logprobs":null,"finish_reason":null' + self._choice_tail

    def _choice_chunk(
        self, index: int, delta: str, logprobs: str = "null", reason: str = "null", extra: str = ""
    ) -> str:
        return (
            f'{self._opening}{{"index":{index},{delta},"logprobs":{logprobs},"finish_reason":{reason}'
            f"{extra}{self._usage_tail(index) if self._counts else self._choice_tail}"
        )

    def _usage_tail(self, index: int) -> str:
        """Returns the end of a chunk with the token counts so far of its choice."""
        assert self.started is not None
        prompt = self.started.prompt_token_ids[index * self._plan.prompts // self._plan.choices]
        return f'}}],"usage":{parts.usage_so_far(len(prompt.ids), self._counts[index])}}}\n\n'


class ChatChunks(Chunks):
    """Chunks of a chat."""

    object_name = "chat.completion.chunk"

    def _begin(self, start: chat_pb2.StreamStart) -> str:
        choices = range(self._plan.choices)
        # Null and not absent: usual clients read the attributes without asking.
        first = '"delta":{"role":"assistant","content":"","reasoning_content":null,"refusal":null}'
        role = [self._choice_chunk(index, first) for index in choices]
        if self._plan.shown.token_ids and start.prompt_token_ids:
            ids = f',"prompt_token_ids":{list(start.prompt_token_ids[0].ids)}'
            role[0] = role[0].removesuffix("}\n\n") + ids + "}\n\n"
        return "".join(role)

    def _new_frame(self, choice_index: int, reasoning: bool) -> Frame:
        head = f'{self._opening}{{"index":{choice_index},"delta":{{'
        tail = "}" + self._text_tail()
        if reasoning:
            # Both names are in use among clients.
            return Frame(f'{head}"reasoning_content":', ',"reasoning":', tail)
        return Frame(f'{head}"content":', "", tail)

    def _delta(self, kind: str, event: chat_pb2.ChatEvent) -> str:
        if kind == "content_delta":
            delta = f'"content":{quoted(event.content_delta)}'
        elif kind == "reasoning_delta":
            shown = quoted(event.reasoning_delta)
            delta = f'"reasoning_content":{shown},"reasoning":{shown}'
        elif kind == "tool_call_start":
            call = event.tool_call_start
            delta = (
                f'"tool_calls":[{{"index":{call.index},"id":{quoted(call.id)},"type":"function",'
                f'"function":{{"name":{quoted(call.name)},"arguments":""}}}}]'
            )
        elif kind == "tool_call_arguments":
            piece = event.tool_call_arguments
            delta = f'"tool_calls":[{{"index":{piece.index},"function":{{"arguments":{quoted(piece.delta)}}}}}]'
        else:
            delta = ""
        return f'"delta":{{{delta}}}'

    def _logprobs(self, event: chat_pb2.ChatEvent) -> dict[str, Any]:
        return parts.chat_logprobs(event.logprobs, self._plan.shown)


class CompletionChunks(Chunks):
    """Chunks of a completion."""

    object_name = "text_completion"
    _raw = True

    def __init__(self, plan: ChunkPlan) -> None:
        super().__init__(plan)
        # Characters sent so far, and where the text of the prompt's next token begins.
        self._sent: list[int] = []
        self._prompt_at: list[int] = []

    def _begin(self, start: chat_pb2.StreamStart) -> str:
        choices = range(self._plan.choices)
        self._sent = [0] * self._plan.choices
        self._prompt_at = [0] * self._plan.choices
        if not self._plan.shown.token_ids:
            return ""
        per_prompt = self._plan.choices // self._plan.prompts
        return "".join(
            self._choice_chunk(
                index,
                '"text":""',
                extra=f',"token_ids":[],"prompt_token_ids":{list(start.prompt_token_ids[index // per_prompt].ids)}',
            )
            for index in choices
        )

    def _new_frame(self, choice_index: int, reasoning: bool) -> Frame:
        # A raw text is not split into reasoning and answer; all of it is text.
        return Frame(f'{self._opening}{{"index":{choice_index},"text":', "", self._text_tail())

    def _delta(self, kind: str, event: chat_pb2.ChatEvent) -> str:
        text = event.content_delta or event.reasoning_delta
        self._sent[event.choice_index] += len(text)
        return f'"text":{quoted(text)}'

    def _logprobs(self, event: chat_pb2.ChatEvent) -> dict[str, Any]:
        if event.of_prompt:
            before = self._prompt_at[event.choice_index]
            self._prompt_at[event.choice_index] += sum(len(item.token) for item in event.logprobs)
        else:
            before = self._sent[event.choice_index] - len(event.content_delta or event.reasoning_delta)
        return parts.completion_logprobs(event.logprobs, before, self._plan.shown)
