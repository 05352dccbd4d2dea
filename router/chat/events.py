"""Events as all faces send them."""

from __future__ import annotations

from qwenserve.chat.v1 import chat_pb2


def text_event(choice_index: int, text: str, reasoning: bool) -> chat_pb2.ChatEvent:
    """Returns the event of one delta of plain text."""
    if reasoning:
        return chat_pb2.ChatEvent(choice_index=choice_index, reasoning_delta=text)
    return chat_pb2.ChatEvent(choice_index=choice_index, content_delta=text)
