"""What is sent: samples, and the jobs they form. A job's samples are sent one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class ChatMessage(NamedTuple):
    """One message of a conversation; `role` as in OpenAI's API."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Exactly one of `token_ids`, `text` and `messages` is set.

    `expected_prompt_tokens` is what the dataset means to send, without a chat template; 0 where it cannot know.
    """

    max_tokens: int
    token_ids: tuple[int, ...] = ()
    text: str = ""
    messages: tuple[ChatMessage, ...] = ()
    expected_prompt_tokens: int = 0

    def __post_init__(self) -> None:
        if sum(map(bool, (self.token_ids, self.text, self.messages))) != 1:
            raise ValueError("a sample has exactly one of token_ids, text and messages")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be 1 or more")

    @property
    def content_key(self) -> int:
        """Equal for samples with the same prompt."""
        return hash((self.token_ids, self.text, self.messages))


# The turns of one conversation, or a single sample. Later turns hold only what the user adds: the messages before,
# answers included, are put in front of them as they come.
Job = tuple[Sample, ...]


def repeated_prompts(jobs: Sequence[Job]) -> int:
    """Returns how many samples have a prompt that an earlier one had. Later turns of a conversation are not counted."""
    keys = [job[0].content_key for job in jobs]
    return len(keys) - len(set(keys))
