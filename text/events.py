"""What comes out of the text pipeline.

`tokens` is the number of generated token ids that an event accounts for: a token whose text is held back
(half a character, a possible stop string, a marker) is counted by the event that releases it, and each token
exactly once over an answer. Joining the deltas of one kind gives the same answer however ids were split.
"""

from __future__ import annotations

from typing import NamedTuple


class Content(NamedTuple):
    """New text of the answer. May be empty where tokens without text are accounted for."""

    text: str
    tokens: int


class Reasoning(NamedTuple):
    """New text of the reasoning."""

    text: str
    tokens: int


class ToolCallStart(NamedTuple):
    """A call whose name is known, whole. `call` counts calls of this answer from 0."""

    call: int
    name: str
    tokens: int


class ToolCallArguments(NamedTuple):
    """More of the JSON text of a call's arguments."""

    call: int
    text: str
    tokens: int


TextEvent = Content | Reasoning | ToolCallStart | ToolCallArguments
