"""Short ways to say what a test asks for."""

from __future__ import annotations

from typing import Any

from qwenserve.chat.v1 import chat_pb2, message_pb2
from qwenserve.type.v1 import sampling_pb2


def user(text: str) -> message_pb2.Message:
    """A user's message."""
    return message_pb2.Message(role=message_pb2.ROLE_USER, content=text)


def chat(
    text: str = "Hello", *, conversation: dict[str, Any] | None = None, **fields: Any
) -> chat_pb2.ChatCompletionRequest:
    """A one-turn chat; sampling fields and request fields by name."""
    names = set(sampling_pb2.SamplingParams.DESCRIPTOR.fields_by_name)
    sampling = {key: fields.pop(key) for key in list(fields) if key in names}
    return chat_pb2.ChatCompletionRequest(
        conversation=message_pb2.Conversation(messages=[user(text)], **(conversation or {})),
        sampling=sampling_pb2.SamplingParams(**sampling),
        **fields,
    )
