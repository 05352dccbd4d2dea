"""A whole answer is the fold of its stream: events are collected as they come and put together once, at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from qwenserve.chat.v1 import chat_pb2
from qwenserve.runtime.errors import InternalError, ServiceError
from qwenserve.type.v1 import sampling_pb2

# What stands for what has not come; read only.
_NO_START = chat_pb2.StreamStart()
_NO_FINISH = chat_pb2.ChoiceFinish()


class FoldedChoice:
    """One choice while its events arrive. `calls` has each tool call with the pieces of its arguments."""

    __slots__ = (
        "calls",
        "content",
        "finish",
        "logprobs",
        "prompt_logprobs",
        "reasoning",
        "thought_logprobs",
        "token_ids",
    )

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[tuple[chat_pb2.ToolCallStart, list[str]]] = []
        self.logprobs: list[sampling_pb2.TokenLogprob] = []
        # Those of the prompt's tokens, where the choice brought them.
        self.prompt_logprobs: list[sampling_pb2.TokenLogprob] = []
        # How many of `logprobs`, from the beginning, are of thought text.
        self.thought_logprobs = 0
        self.token_ids: list[int] = []
        self.finish = _NO_FINISH

    @property
    def text(self) -> str:
        """The content."""
        return "".join(self.content)

    @property
    def message_text(self) -> str | None:
        """The content of a message. An answer of tool calls alone has none, which differs from an empty one."""
        text = self.text
        return text if text or not self.calls else None


class Fold:
    """A sink that collects every event; see `router.chat.interface.EventSink`. `start` and `usage` come by the end."""

    __slots__ = ("_choices", "_error", "ended", "start", "usage")

    def __init__(self) -> None:
        self.start = _NO_START
        self.usage: sampling_pb2.Usage | None = None
        # Done once nothing more comes; `check` says whether the answer is complete then.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._error: ServiceError | None = None
        self._choices: dict[int, FoldedChoice] = {}

    def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
        """Takes new events."""
        for event in events:
            kind = event.WhichOneof("event")
            if kind == "start":
                self.start = event.start
            elif kind == "usage":
                self.usage = event.usage
                self._end()
            else:
                self._take(kind, event)

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None]:
        """Returns what takes deltas of plain text."""
        choice = self._choice(choice_index)
        return (choice.reasoning if reasoning else choice.content).append

    def failed(self, error: ServiceError) -> None:
        """The answer ended early."""
        self._error = error
        self._end()

    def check(self) -> None:
        """Raises what ended the answer early."""
        if self._error is not None:
            raise self._error
        if self.usage is None:
            raise InternalError("the answer ended before it was complete")

    def choices(self) -> list[tuple[int, FoldedChoice]]:
        """Returns the choices with their indices, in order."""
        return sorted(self._choices.items())

    def prompt_token_ids(self, prompt: int = 0) -> list[int]:
        """Returns the ids of a prompt; empty where they were not asked for."""
        prompts = self.start.prompt_token_ids
        return list(prompts[prompt].ids) if prompts else []

    def prompt_logprobs(self) -> list[sampling_pb2.TokenLogprob]:
        """Returns those of the tokens of a chat's prompt, which come with its first choice; empty without."""
        first = self._choices.get(0)
        return first.prompt_logprobs if first is not None else []

    def _take(self, kind: str | None, event: chat_pb2.ChatEvent) -> None:
        choice = self._choice(event.choice_index)
        if kind == "content_delta":
            choice.content.append(event.content_delta)
        elif kind == "reasoning_delta":
            choice.reasoning.append(event.reasoning_delta)
        elif kind == "tool_call_start":
            choice.calls.append((event.tool_call_start, []))
        elif kind == "tool_call_arguments":
            choice.calls[event.tool_call_arguments.index][1].append(event.tool_call_arguments.delta)
        elif kind == "finish":
            choice.finish = event.finish
        if logprobs := event.logprobs:
            if event.of_prompt:
                choice.prompt_logprobs.extend(logprobs)
            else:
                choice.logprobs.extend(logprobs)
                if kind == "reasoning_delta":
                    choice.thought_logprobs = len(choice.logprobs)
        if token_ids := event.token_ids:
            choice.token_ids.extend(token_ids)

    def _choice(self, index: int) -> FoldedChoice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = FoldedChoice()
        return choice

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
