"""Whole answers as OpenAI's JSON."""

from __future__ import annotations

from typing import Any

import pydantic_core

from qwenserve.chat.v1 import chat_pb2
from router.http import parts


def chat_body(answer: chat_pb2.ChatCompletion, *, logprobs: bool, token_ids: bool) -> bytes:
    """Returns a chat completion as JSON; log-probabilities and token ids where they were asked for."""
    body: dict[str, Any] = {
        "id": answer.id,
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.model,
        "choices": [_chat_choice(choice, logprobs, token_ids) for choice in answer.choices],
        "usage": parts.usage(answer.usage),
    }
    if token_ids:
        body["prompt_token_ids"] = list(answer.prompt_token_ids)
    return to_json(body)


def completion_body(answer: chat_pb2.Completion, *, logprobs: bool, token_ids: bool, leads: list[int]) -> bytes:
    """Returns a completion as JSON. `leads` has, for each choice, the length of the echoed prompt in its text."""
    choices = []
    for choice, lead in zip(answer.choices, leads, strict=True):
        rendered: dict[str, Any] = {
            "index": choice.index,
            "text": choice.text,
            "logprobs": parts.completion_logprobs(choice.logprobs, lead) if logprobs else None,
            "finish_reason": parts.FINISH_REASONS[choice.finish.reason],
            "stop_reason": parts.stop_reason(choice.finish),
        }
        if token_ids:
            rendered["token_ids"] = list(choice.token_ids)
            rendered["prompt_token_ids"] = list(choice.prompt_token_ids)
        choices.append(rendered)
    return to_json(
        {
            "id": answer.id,
            "object": "text_completion",
            "created": answer.created,
            "model": answer.model,
            "choices": choices,
            "usage": parts.usage(answer.usage),
        }
    )


def to_json(body: dict[str, Any]) -> bytes:
    """Returns compact JSON; text as it is, not as escapes."""
    # A third of the time of json.dumps, which makes a new encoder for every call.
    return pydantic_core.to_json(body)


def _chat_choice(choice: chat_pb2.ChatChoice, logprobs: bool, token_ids: bool) -> dict[str, Any]:
    given = choice.message
    message: dict[str, Any] = {
        "role": "assistant",
        "content": given.content if given.HasField("content") else None,
    }
    if given.HasField("reasoning_content"):
        # Both names are in use among clients.
        message["reasoning_content"] = message["reasoning"] = given.reasoning_content
    if given.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
            for call in given.tool_calls
        ]
    rendered: dict[str, Any] = {
        "index": choice.index,
        "message": message,
        "logprobs": parts.chat_logprobs(choice.logprobs) if logprobs else None,
        "finish_reason": parts.FINISH_REASONS[choice.finish.reason],
        "stop_reason": parts.stop_reason(choice.finish),
    }
    if token_ids:
        rendered["token_ids"] = list(choice.token_ids)
    return rendered
