"""The whole answer is the fold of its stream. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from qwenserve.chat.v1 import chat_pb2, message_pb2
from qwenserve.type.v1 import sampling_pb2
from runtime.errors import ServiceError


class _FoldedChoice:
    """One choice while its events arrive. Parts are joined once, at the end."""

    __slots__ = ("arguments", "calls", "content", "finish", "logprobs", "reasoning", "token_ids")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[chat_pb2.ToolCallStart] = []
        self.arguments: list[list[str]] = []
        self.logprobs: list[sampling_pb2.TokenLogprob] = []
        self.token_ids: list[int] = []
        self.finish = chat_pb2.ChoiceFinish()


class Fold:
    """A sink that keeps everything. `done` resolves at the usage event, or raises the answer's error."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._start = chat_pb2.StreamStart()
        self._usage = sampling_pb2.Usage()
        self._choices: dict[int, _FoldedChoice] = {}

    def events(self, events: Sequence[chat_pb2.ChatEvent]) -> None:
        """Takes new events."""
        for event in events:
            self._take(event)

    def text_writer(self, choice_index: int, reasoning: bool) -> Callable[[str], None]:
        """Returns what takes deltas of plain text."""
        choice = self._choice(choice_index)
        return (choice.reasoning if reasoning else choice.content).append

    def failed(self, error: ServiceError) -> None:
        """The answer ended early."""
        if not self.done.done():
            self.done.set_exception(error)

    def chat_completion(self) -> chat_pb2.ChatCompletion:
        """Returns the answer as a chat completion."""
        start = self._start
        return chat_pb2.ChatCompletion(
            id=start.id,
            created=start.created,
            model=start.model,
            choices=[_chat_choice(index, choice) for index, choice in sorted(self._choices.items())],
            usage=self._usage,
            prompt_token_ids=start.prompt_token_ids[0].ids if start.prompt_token_ids else (),
            ignored_params=start.ignored_params,
        )

    def completion(self, choices_per_prompt: int) -> chat_pb2.Completion:
        """Returns the answer as a text completion."""
        start = self._start
        return chat_pb2.Completion(
            id=start.id,
            created=start.created,
            model=start.model,
            choices=[
                chat_pb2.CompletionChoice(
                    index=index,
                    text="".join(choice.content),
                    finish=choice.finish,
                    logprobs=choice.logprobs,
                    token_ids=choice.token_ids,
                    prompt_token_ids=(
                        start.prompt_token_ids[index // choices_per_prompt].ids if start.prompt_token_ids else ()
                    ),
                )
                for index, choice in sorted(self._choices.items())
            ],
            usage=self._usage,
            ignored_params=start.ignored_params,
        )

    def _choice(self, index: int) -> _FoldedChoice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _FoldedChoice()
        return choice

    def _take(self, event: chat_pb2.ChatEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "start":
            self._start = event.start
            return
        if kind == "usage":
            self._usage = event.usage
            if not self.done.done():
                self.done.set_result(None)
            return
        choice = self._choice(event.choice_index)
        if kind == "content_delta":
            choice.content.append(event.content_delta)
        elif kind == "reasoning_delta":
            choice.reasoning.append(event.reasoning_delta)
        elif kind == "tool_call_start":
            choice.calls.append(event.tool_call_start)
            choice.arguments.append([])
        elif kind == "tool_call_arguments":
            choice.arguments[event.tool_call_arguments.index].append(event.tool_call_arguments.delta)
        elif kind == "finish":
            choice.finish = event.finish
        if event.logprobs:
            choice.logprobs.extend(event.logprobs)
        if event.token_ids:
            choice.token_ids.extend(event.token_ids)


def _chat_choice(index: int, choice: _FoldedChoice) -> chat_pb2.ChatChoice:
    content = "".join(choice.content)
    message = message_pb2.Message(
        role=message_pb2.ROLE_ASSISTANT,
        tool_calls=[
            message_pb2.ToolCall(id=call.id, name=call.name, arguments_json="".join(arguments))
            for call, arguments in zip(choice.calls, choice.arguments, strict=True)
        ],
    )
    # An answer of tool calls alone has no content, which differs from an empty one.
    if content or not choice.calls:
        message.content = content
    if choice.reasoning:
        message.reasoning_content = "".join(choice.reasoning)
    return chat_pb2.ChatChoice(
        index=index, message=message, finish=choice.finish, logprobs=choice.logprobs, token_ids=choice.token_ids
    )
