"""The tokens that divide an answer into sections, and the transitions between these.

A marker is one token id, never text: a model that spells `<think>` letter by letter, or a user who quotes it, opens
nothing. `text.pipeline` follows the transitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache

from qwenserve.text.tokenizer import Tokenizer


class Marker(Enum):
    """What a marker token does."""

    THINK_OPEN = "<think>"
    THINK_CLOSE = "</think>"
    CALL_OPEN = "<tool_call>"
    CALL_CLOSE = "</tool_call>"


class Section(Enum):
    """Where a token id belongs."""

    CONTENT = "content"
    REASONING = "reasoning"
    CALL = "tool call"


# Everything else leaves the section as it is and is text: thoughts may mention calls, calls may mention thoughts.
_NEXT = {
    (Section.CONTENT, Marker.THINK_OPEN): Section.REASONING,
    (Section.REASONING, Marker.THINK_CLOSE): Section.CONTENT,
    (Section.CONTENT, Marker.CALL_OPEN): Section.CALL,
    (Section.CALL, Marker.CALL_OPEN): Section.CALL,
    (Section.CALL, Marker.CALL_CLOSE): Section.CONTENT,
}
# What was opened in an earlier turn is closed.
_TURN_TOKENS = ("<|im_start|>", "<|im_end|>")


def next_section(section: Section, marker: Marker) -> Section | None:
    """The section that `marker` leads to from `section`; None where the marker means nothing there."""
    return _NEXT.get((section, marker))


@lru_cache(maxsize=8)  # by identity; twice in every request
def markers_of(tokenizer: Tokenizer) -> Mapping[int, Marker]:
    """The markers that this vocabulary has, by token id."""
    added = tokenizer.added_ids
    return {added[marker.value]: marker for marker in Marker if marker.value in added}


def starts_in_reasoning(tokenizer: Tokenizer, prompt_ids_tail: Sequence[int]) -> bool:
    """Whether an answer to this prompt begins inside its reasoning.

    Only the last turn counts, so any tail that reaches back to it will do, and the whole prompt costs no more. True
    for templates that open `<think>` themselves; false for the empty thought that switches thinking off.
    """
    told = _told_from_the_end(tokenizer)
    for token_id in reversed(prompt_ids_tail):
        if token_id in told:
            return told[token_id]
    return False


@lru_cache(maxsize=8)
def _told_from_the_end(tokenizer: Tokenizer) -> Mapping[int, bool]:
    """The ids that tell whether a thought is open after them, whatever came before.

    A prompt's calls are not among them: they are closed history or a message to continue, and no thought opens inside
    one.
    """
    added = tokenizer.added_ids
    told = {Marker.THINK_OPEN.value: True, Marker.THINK_CLOSE.value: False, **dict.fromkeys(_TURN_TOKENS, False)}
    return {added[token]: opens for token, opens in told.items() if token in added}
