"""Conversations whose prompts extend each other: thoughts stay where the model wrote them. Pure.

Qwen3's templates take the thoughts out of earlier answers, and with thinking off the empty thought that an answer began
with. So a turn's prompt is no beginning of the next one's, and what an engine has cached of the last answer is computed
again. Here an answer's content gets its thought back, in the form in which it was generated, and the template is told
that there is none, so that it leaves the content alone. It costs the thoughts' tokens in every later prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_OPEN, _CLOSE = "<think>", "</think>"


def with_thoughts(messages: Sequence[Mapping[str, Any]], *, thinking: bool) -> list[dict[str, Any]]:
    """Returns the messages with the thoughts of answers in their contents.

    `thinking` is whether the model thinks now: an answer without a thought is taken to be of the same kind. With
    thinking on, its thought was not sent back, and it stays as it is. So does a last message that is to be continued.
    """
    last = len(messages) - 1
    return [
        _with_thought(message, thinking) if message["role"] == "assistant" and place < last else dict(message)
        for place, message in enumerate(messages)
    ]


def _with_thought(message: Mapping[str, Any], thinking: bool) -> dict[str, Any]:
    text, thought = message["content"], message.get("reasoning_content")
    if thought is None and _CLOSE in text:
        before, _, text = text.rpartition(_CLOSE)
        thought = before.rpartition(_OPEN)[2]
    if not thought and thinking:
        return dict(message)
    text = text.lstrip("\n")
    # Before calls the template adds a newline to a content that is not empty.
    after = "\n" if message.get("tool_calls") and not text else "\n\n"
    inside = (thought or "").strip("\n")
    content = f"{_OPEN}\n{inside}\n{_CLOSE}{after}{text}"
    return {**message, "content": content, "reasoning_content": ""}
