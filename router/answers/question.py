"""Prompts that others may ask in other words: which are such, and what must be equal besides the words."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from qwenserve.chat.v1 import message_pb2
from qwenserve.router.answers.asked import Asked, asked, same
from qwenserve.router.answers.policy import framed
from qwenserve.type.v1 import sampling_pb2

# Longer texts are no questions that somebody else asks in other words.
MAX_TEXT = 1000
_SYSTEM, _USER = message_pb2.ROLE_SYSTEM, message_pb2.ROLE_USER


class Question(NamedTuple):
    """A prompt that may have similar ones: what it is grouped by, and the last message's text."""

    group: str
    text: str
    asked: Asked


class Match(NamedTuple):
    """An earlier prompt: how near it is, the id under which its answer was given first, and where that is kept."""

    score: float
    answer_id: str
    answer_key: str


def question(
    conversation: message_pb2.Conversation,
    *,
    scope: bytes,
    sampling: sampling_pb2.SamplingParams,
    max_tokens_given: bool,
    any_turn: bool,
    space: str,
) -> Question | None:
    """Returns what to look for; None for a prompt that is not to be answered by another one's answer.

    `scope` is the answer's (`policy.answer_scope`), `sampling` is complete. Without a limit of the request's own, its
    `max_tokens` only says what the window leaves.
    """
    messages = conversation.messages
    if not messages or messages[-1].role != _USER or not 0 < len(messages[-1].content) <= MAX_TEXT:
        return None
    if not any_turn and any(message.role != _SYSTEM for message in messages[:-1]):
        return None
    text = messages[-1].content
    reduced = asked(text)
    if not same(reduced, reduced):
        return None
    frame = message_pb2.Conversation()
    frame.CopyFrom(conversation)
    frame.messages[-1].ClearField("content")
    how = sampling_pb2.SamplingParams()
    how.CopyFrom(sampling)
    if how.temperature == 0:
        how.ClearField("seed")
    if not max_tokens_given:
        how.ClearField("max_tokens")
    told = framed(
        (
            scope,
            how.SerializeToString(deterministic=True),
            frame.SerializeToString(deterministic=True),
            space.encode(),
        )
    )
    digest = hashlib.blake2b(told, digest_size=32, person=b"qsv similar 1")
    return Question(f"similar:{digest.hexdigest()}", text, reduced)
