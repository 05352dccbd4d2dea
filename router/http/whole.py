"""Whole answers as OpenAI's JSON.

An answer is kept as its events bring it and put together as text at the end, like a stream's chunks. Making the API's
whole message first, and reading every field of it again, cost twice as much as all the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring as quoted  # with quotation marks; non-ASCII text as it is
from typing import Any

import pydantic_core

from qwenserve.chat.v1 import chat_pb2
from qwenserve.type.v1 import sampling_pb2
from router.http import parts
from runtime.errors import InternalError, ServiceError


class WholeChoice:
    """One choice while its events arrive. Parts are joined once, at the end."""

    __slots__ = ("calls", "content", "finish", "logprobs", "reasoning", "token_ids")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        # Each call with the pieces of its arguments.
        self.calls: list[tuple[chat_pb2.ToolCallStart, list[str]]] = []
        self.logprobs: list[sampling_pb2.TokenLogprob] = []
        self.token_ids: list[int] = []
        self.finish = chat_pb2.ChoiceFinish()

    @property
    def text(self) -> str:
        """The content so far."""
        return "".join(self.content)


class WholeAnswer:
    """An EventSink that keeps everything; log-probabilities and token ids where they were asked for. `ended` resolves
    after the last event or a failure.
    """

    __slots__ = ("_choices", "_error", "_logprobs", "_token_ids", "ended", "start", "usage")

    def __init__(self, *, logprobs: bool, token_ids: bool) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.start = chat_pb2.StreamStart()
        self.usage: sampling_pb2.Usage | None = None
        self._logprobs = logprobs
        self._token_ids = token_ids
        self._choices: dict[int, WholeChoice] = {}
        self._error: ServiceError | None = None

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
        self._error = error
        self._end()

    def raise_error(self) -> None:
        """Raises what ended the answer early, if anything did."""
        if self._error is not None:
            raise self._error
        if self.usage is None:
            raise InternalError("the answer ended before it was complete")

    def choices(self) -> list[tuple[int, WholeChoice]]:
        """Returns the choices with their indices, in order."""
        return sorted(self._choices.items())

    def chat(self) -> bytes:
        """Returns the answer as a chat completion in JSON."""
        choices = ",".join([self._chat_choice(index, choice) for index, choice in self.choices()])
        more = ""
        if self._token_ids:
            prompts = self.start.prompt_token_ids
            more = f',"prompt_token_ids":{list(prompts[0].ids) if prompts else []}'
        return self._body("chat.completion", choices, more)

    def completion(self, leads: Sequence[int], choices_per_prompt: int) -> bytes:
        """Returns the answer as a completion in JSON. `leads` has, for each choice, the length of the echoed prompt in
        its text.
        """
        prompts = self.start.prompt_token_ids
        rendered = []
        for (index, choice), lead in zip(self.choices(), leads, strict=True):
            probabilities = _json(parts.completion_logprobs(choice.logprobs, lead)) if self._logprobs else "null"
            more = ""
            if self._token_ids:
                ids = list(prompts[index // choices_per_prompt].ids) if prompts else []
                more = f',"token_ids":{choice.token_ids},"prompt_token_ids":{ids}'
            rendered.append(
                f'{{"index":{index},"text":{quoted(choice.text)},"logprobs":{probabilities},'
                f"{_finish(choice.finish)}{more}}}"
            )
        return self._body("text_completion", ",".join(rendered), "")

    def _take(self, event: chat_pb2.ChatEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "start":
            self.start = event.start
            return
        if kind == "usage":
            self.usage = event.usage
            self._end()
            return
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
        if self._logprobs:
            choice.logprobs.extend(event.logprobs)
        if self._token_ids:
            choice.token_ids.extend(event.token_ids)

    def _choice(self, index: int) -> WholeChoice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = WholeChoice()
        return choice

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _body(self, kind: str, choices: str, more: str) -> bytes:
        start = self.start
        assert self.usage is not None
        return (
            f'{{"id":{quoted(start.id)},"object":"{kind}","created":{start.created},"model":{quoted(start.model)},'
            f'"choices":[{choices}],"usage":{parts.usage(self.usage)}{more}}}'
        ).encode()

    def _chat_choice(self, index: int, choice: WholeChoice) -> str:
        probabilities = _json(parts.chat_logprobs(choice.logprobs)) if self._logprobs else "null"
        more = f',"token_ids":{choice.token_ids}' if self._token_ids else ""
        return (
            f'{{"index":{index},"message":{_message(choice)},"logprobs":{probabilities},'
            f"{_finish(choice.finish)}{more}}}"
        )


def to_json(body: dict[str, Any]) -> bytes:
    """Returns compact JSON; text as it is, not as escapes."""
    # A third of the time of json.dumps, which makes a new encoder for every call.
    return pydantic_core.to_json(body)


def _message(choice: WholeChoice) -> str:
    more = ""
    if choice.reasoning:
        # Both names are in use among clients.
        shown = quoted("".join(choice.reasoning))
        more = f',"reasoning_content":{shown},"reasoning":{shown}'
    if choice.calls:
        calls = [
            f'{{"id":{quoted(call.id)},"type":"function",'
            f'"function":{{"name":{quoted(call.name)},"arguments":{quoted("".join(arguments))}}}}}'
            for call, arguments in choice.calls
        ]
        more += f',"tool_calls":[{",".join(calls)}]'
    content = choice.text
    # An answer of tool calls alone has no content, which differs from an empty one.
    shown = quoted(content) if content or not choice.calls else "null"
    return f'{{"role":"assistant","content":{shown}{more}}}'


def _finish(finish: chat_pb2.ChoiceFinish) -> str:
    reason, stop = parts.FINISH_REASONS[finish.reason], parts.stop_reason(finish)
    shown = quoted(stop) if isinstance(stop, str) else "null" if stop is None else stop
    return f'"finish_reason":{"null" if reason is None else quoted(reason)},"stop_reason":{shown}'


def _json(value: dict[str, Any]) -> str:
    return to_json(value).decode()
