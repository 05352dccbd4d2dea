"""Prompts of the Qwen3 conversation format in plain Python, for templates that are known to give the same bytes.

Jinja's sandbox takes about 20 µs for a short conversation and 8 µs more a message (docs/performance.md), as long as
tokenizing new text takes. The family's templates are published texts that do not change, so what they do can be
written once as a function. It is used only for a template whose digest is listed here, and only if it agrees with
that template on `SAMPLES` when the model is loaded.

Covered: the four roles with a text as content, thoughts, tool calls with arguments that are objects, tools, the
thinking switch, and the beginning of the answer. For everything else, and for what a template may refuse, `render`
returns None, and the template itself is asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from qwenserve.runtime.values import frozen_value


@frozen_value
class Format:
    """How templates of the family differ, for what is covered here.

    `thoughts`: thoughts are taken out of earlier answers, and shown in those after the newest question.
    `answer`: what an answer begins with; `unthinking_answer`: the same with thinking switched off.
    """

    thoughts: bool
    answer: str
    unthinking_answer: str


_ANSWER = "<|im_start|>assistant\n"
HYBRID = Format(True, _ANSWER, _ANSWER + "<think>\n\n</think>\n\n")
THINKING = Format(True, _ANSWER + "<think>\n", _ANSWER + "<think>\n")
INSTRUCT = Format(False, _ANSWER, _ANSWER)

# SHA-256 of templates, without the newline at their end, which Jinja drops.
_KNOWN = {
    "86346c5a506a2bc6d0c3e9d49a266405cee3f365f16412e920d6597305649519": HYBRID,  # models/qwen3-tiny
    "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5": HYBRID,  # Qwen3, as first published
    "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8": HYBRID,  # Qwen3, later
    "3802169b2a02b81e6adb7ab4f64f91ff02db753c8c3a64a01c35192d3a61d8d7": THINKING,  # Qwen3-*-Thinking-2507
    "64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326": INSTRUCT,  # Qwen3-*-Instruct-2507
}

_TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
)
_VARIABLES = frozenset({"enable_thinking"})

# What the templates' `tojson` does. `json.dumps` would make an encoder in every call.
_json = json.JSONEncoder(ensure_ascii=False).encode


@frozen_value
class Given:
    """What is rendered; see `ChatTemplate.render`."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None
    variables: Mapping[str, Any]
    add_generation_prompt: bool


def known_format(source: str) -> Format | None:
    """The format that the template with this source writes, if it is a known one."""
    return _KNOWN.get(hashlib.sha256(source.removesuffix("\n").encode("utf-8", "replace")).hexdigest())


def render(given: Given, format_: Format) -> str | None:
    """The prompt's text; None for what is not covered."""
    if not given.variables.keys() <= _VARIABLES:
        return None
    try:
        pieces = _conversation(given.messages, given.tools, thoughts=format_.thoughts)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        return None  # an odd shape: the template knows what it makes of it, or refuses it with its own words
    if given.add_generation_prompt:
        off = given.variables.get("enable_thinking") is False
        pieces.append(format_.unthinking_answer if off else format_.answer)
    return "".join(pieces)


def _conversation(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, *, thoughts: bool
) -> list[str]:
    # Texts are joined with +, not formatted, so that what is no text is noticed.
    pieces = [_tools(messages[0], tools)] if tools else []
    # Thoughts are kept in what comes after the newest question, if anywhere.
    question = _newest_question(messages) if thoughts else len(messages)
    last = len(messages) - 1
    before = ""
    for index, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if before == "tool" and role != "tool":
            pieces.append("<|im_end|>\n")
        if role == "user":
            pieces.append("<|im_start|>user\n" + content + "<|im_end|>\n")
        elif role == "assistant":
            text, thought = _split(message) if thoughts else (content, "")
            calls = message.get("tool_calls")
            # Decided by the text as it is, before the newlines in front of it go.
            written = _calls(calls, after_text=bool(text)) if calls else ""
            if index > question and (thought or index == last):
                text = "<think>\n" + thought.strip("\n") + "\n</think>\n\n" + text.lstrip("\n")
            pieces.append(_ANSWER + text + written + "<|im_end|>\n")
        elif role == "tool":
            # Results that follow each other share one turn of the user.
            begin = "\n<tool_response>\n" if before == "tool" else "<|im_start|>user\n<tool_response>\n"
            pieces.append(begin + content + "\n</tool_response>")
        elif role != "system":
            raise ValueError("not a role of the format")
        elif index or not tools:
            pieces.append("<|im_start|>system\n" + content + "<|im_end|>\n")
        before = role
    if before == "tool":
        pieces.append("<|im_end|>\n")
    return pieces


def _tools(first: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> str:
    """The system turn of a conversation with tools, with the system message's text if there is one."""
    instruction = first["content"] + "\n\n" if first["role"] == "system" else ""
    listed = "".join(["\n" + _json(tool) for tool in tools])
    return "<|im_start|>system\n" + instruction + _TOOLS_BEFORE + listed + _TOOLS_AFTER


def _split(message: Mapping[str, Any]) -> tuple[str, str]:
    """An answer's text and its thought, which may be written into its content."""
    content, thought = message["content"], message.get("reasoning_content")
    if isinstance(thought, str):
        return content, thought
    if thought is not None:
        raise TypeError("a thought is a text")
    if "</think>" not in content:
        return content, ""
    parts = content.split("</think>")
    return parts[-1].lstrip("\n"), parts[0].rstrip("\n").split("<think>")[-1].lstrip("\n")


def _newest_question(messages: Sequence[Mapping[str, Any]]) -> int:
    """Where the last turn of the user is that is not a tool's result written out."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index]["role"] == "user":
            content = messages[index]["content"]
            if not (content.startswith("<tool_response>") and content.endswith("</tool_response>")):
                return index
    return len(messages) - 1


def _calls(calls: Sequence[Mapping[str, Any]], *, after_text: bool) -> str:
    written = []
    for call in calls:
        function = call.get("function") or call
        arguments = function["arguments"]
        if isinstance(arguments, str):
            raise TypeError("arguments as JSON text, which is parsed for the template")
        written.append(
            '<tool_call>\n{"name": "' + function["name"] + '", "arguments": ' + _json(arguments) + "}\n</tool_call>"
        )
    return ("\n" if after_text else "") + "\n".join(written)


def _samples() -> list[Given]:
    def user(text: str) -> dict[str, Any]:
        return {"role": "user", "content": text}

    def assistant(text: str, **more: Any) -> dict[str, Any]:
        return {"role": "assistant", "content": text, **more}

    def result(text: str) -> dict[str, Any]:
        return {"role": "tool", "content": text}

    system = {"role": "system", "content": "Be brief."}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"b": [1, None], "a": "<é>"}}}
    call = {"type": "function", "function": {"name": "f", "arguments": {"b": 1.5, "a": "\n<é>"}}}
    agent = [
        user("x"),
        assistant("", reasoning_content="why", tool_calls=[call, call]),
        result("1"),
        result("2"),
        assistant("\n<think>\na\n</think>\n\nb", tool_calls=[call]),
        user("<tool_response>3</tool_response>"),
        assistant("c"),
    ]
    conversations: list[tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = [
        ([user("x")], None),
        ([system, user("x")], None),
        ([user("x")], []),
        ([user("x")], [tool]),
        ([system, user("x"), system], [tool, tool]),
        ([assistant("a"), user(" x\n"), assistant("<think>a</think>b"), user("y")], None),
        ([user("x"), assistant("\nb", reasoning_content="\na\n")], None),
        (agent, [tool]),
        (agent[:4], [tool]),
        ([result("1"), result("2")], None),
    ]
    variables: tuple[dict[str, Any], ...] = ({}, {"enable_thinking": True}, {"enable_thinking": False})
    return [
        Given(messages, tools, variables[number % 3], number % 4 != 3)
        for number, (messages, tools) in enumerate(conversations * 3)
    ]


# Every branch of the format, for comparing with a template.
SAMPLES: Sequence[Given] = tuple(_samples())
