"""Conversations as values, and their text in the Qwen3 format.

The text is put together here directly, because millions of conversations are rendered; a test holds it equal
to what the model's chat template renders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum
from typing import Any, NamedTuple

Tool = Mapping[str, Any]
TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)
NO_THOUGHT = "<think>\n\n</think>\n\n"


class Thinking(Enum):
    """How thinking is switched for the newest question."""

    DEFAULT = ""
    ASKED = "/think"
    REFUSED = "/no_think"
    DISABLED = "enable_thinking=false"

    @property
    def wanted(self) -> bool:
        return self in (Thinking.DEFAULT, Thinking.ASKED)


class Call(NamedTuple):
    name: str
    arguments: Mapping[str, Any]


class Step(NamedTuple):
    """What the model says at one point: a thought, then words or calls."""

    thought: str
    content: str = ""
    calls: tuple[Call, ...] = ()
    taught: bool = True  # whether training learns to say this where it stands in a conversation's past


class Exchange(NamedTuple):
    """One question and what follows until the final answer.

    `results[i]` are the tool results sent back for `steps[i].calls`. `must` are strings that a right final
    answer contains, for the evaluation. `before` is history that the question refers to.
    """

    question: str
    steps: tuple[Step, ...]
    results: tuple[tuple[str, ...], ...] = ()
    tools: tuple[Tool, ...] = ()
    system: str = ""
    must: tuple[str, ...] = ()
    before: tuple[Exchange, ...] = ()


class Conversation(NamedTuple):
    history: tuple[Exchange, ...]
    newest: Exchange
    thinking: Thinking
    system: str = ""
    thoughts_sent_back: bool = True  # clients that drop the thoughts of earlier steps are usual, too


class Weight(IntEnum):
    """How much a piece counts in the loss; the trainer maps each to a number."""

    NONE = 0
    CONTEXT = 1
    EARLIER = 2
    ANSWER = 3


class Piece(NamedTuple):
    text: str
    weight: Weight


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def call_text(call: Call) -> str:
    return f'<tool_call>\n{{"name": "{call.name}", "arguments": {to_json(call.arguments)}}}\n</tool_call>'


def spoken(step: Step) -> str:
    """Words and calls, without the thought."""
    return "\n".join(([step.content] if step.content else []) + [call_text(call) for call in step.calls])


def reply_text(step: Step, thinking: Thinking) -> str:
    """What the model generates at this point, without the end token."""
    if thinking is Thinking.DISABLED:
        return spoken(step)
    return (f"<think>\n{step.thought}\n</think>\n\n" if thinking.wanted else NO_THOUGHT) + spoken(step)


def _results_turn(results: Sequence[str]) -> str:
    body = "".join(f"\n<tool_response>\n{result}\n</tool_response>" for result in results)
    return f"<|im_start|>user{body}<|im_end|>\n"


def _opening(system: str, tools: Sequence[Tool]) -> str:
    if tools:
        before = f"{system}\n\n" if system else ""
        listed = "".join("\n" + to_json(tool) for tool in tools)
        return f"<|im_start|>system\n{before}{TOOLS_BEFORE}{listed}{TOOLS_AFTER}<|im_end|>\n"
    return f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""


def pieces(conversation: Conversation, upto: int) -> list[Piece]:
    """The training text that ends with the reply at step `upto` of the newest exchange.

    Earlier replies whose thoughts the template keeps count as answers, because they read as they were
    generated; those that it strips teach only their wording (`EARLIER`).
    """
    newest, thinking = conversation.newest, conversation.thinking
    out: list[Piece] = []
    pending = _opening(conversation.system or newest.system, newest.tools)
    for exchange in conversation.history + newest.before:
        pending += f"<|im_start|>user\n{exchange.question}<|im_end|>\n"
        for i, step in enumerate(exchange.steps):
            out.append(Piece(pending + "<|im_start|>assistant\n", Weight.CONTEXT))
            out.append(Piece(spoken(step) + "<|im_end|>", Weight.EARLIER if step.taught else Weight.NONE))
            pending = "\n"
            if i < len(exchange.results):
                pending += _results_turn(exchange.results[i])
    pending += f"<|im_start|>user\n{newest.question}<|im_end|>\n"
    for i, step in enumerate(newest.steps[: upto + 1]):
        opened = pending + "<|im_start|>assistant\n"
        if i == upto:
            out.append(Piece(opened + (NO_THOUGHT if thinking is Thinking.DISABLED else ""), Weight.CONTEXT))
            out.append(Piece(reply_text(step, thinking) + "<|im_end|>", Weight.ANSWER))
        else:
            out.append(Piece(opened, Weight.CONTEXT))
            kept = thinking.wanted and conversation.thoughts_sent_back
            text = reply_text(step, thinking) if kept else spoken(step)
            out.append(Piece(text + "<|im_end|>", Weight.ANSWER if kept else Weight.EARLIER))
            pending = "\n" + _results_turn(newest.results[i])
    return out


def prompt_and_reply(conversation: Conversation, upto: int) -> tuple[str, str]:
    *before, last = pieces(conversation, upto)
    return "".join(piece.text for piece in before), last.text.removesuffix("<|im_end|>")


def messages(conversation: Conversation, upto: int) -> list[dict[str, Any]]:
    """The same prompt as the chat template takes it: the messages before step `upto`."""
    out: list[dict[str, Any]] = []
    system = conversation.system or conversation.newest.system
    if system:
        out.append({"role": "system", "content": system})
    for exchange in conversation.history + conversation.newest.before:
        out.append({"role": "user", "content": exchange.question})
        for i, step in enumerate(exchange.steps):
            out.extend(_step_messages(step, exchange.results[i] if i < len(exchange.results) else ()))
    newest = conversation.newest
    out.append({"role": "user", "content": newest.question})
    keeps = conversation.thinking.wanted and conversation.thoughts_sent_back
    for i, step in enumerate(newest.steps[:upto]):
        kept = step if keeps else step._replace(thought="")
        out.extend(_step_messages(kept, newest.results[i]))
    return out


def _step_messages(step: Step, results: Sequence[str]) -> list[dict[str, Any]]:
    said: dict[str, Any] = {"role": "assistant", "content": step.content, "reasoning_content": step.thought}
    if step.calls:
        said["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in step.calls
        ]
    return [said, *({"role": "tool", "content": result} for result in results)]
