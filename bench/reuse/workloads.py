"""What is sent: conversations over shared system prompts, and prompts that come again. Pure: all from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

_SYLLABLES = (
    "ba",
    "co",
    "di",
    "fu",
    "ga",
    "he",
    "jo",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "ri",
    "so",
    "tu",
    "ve",
    "wi",
    "za",
)
# Of texts made of such words a token of Qwen's vocabulary is about this many characters.
_TOKEN_CHARACTERS = 1.7


class Turns(NamedTuple):
    """One conversation: its system prompt, and what its user says turn by turn. Temperature 0 where `deterministic`."""

    system: str
    users: Sequence[str]
    answer_tokens: int
    deterministic: bool = True


def text(draw: random.Random, tokens: int) -> str:
    """Returns made-up words, about so many tokens."""
    words: list[str] = []
    size = 0
    while size < tokens * _TOKEN_CHARACTERS:
        word = "".join(draw.choice(_SYLLABLES) for _ in range(draw.randrange(1, 4)))
        words.append(word)
        size += len(word) + 1
    return " ".join(words)


def conversations(
    count: int, *, systems: int, system_tokens: int, turns: int, user_tokens: int, answer_tokens: int, seed: int = 0
) -> list[Turns]:
    """Returns chats of several turns, each over one of a few system prompts."""
    draw = random.Random(seed)
    shared = [text(draw, system_tokens) for _ in range(systems)]
    return [
        Turns(draw.choice(shared), [text(draw, user_tokens) for _ in range(turns)], answer_tokens) for _ in range(count)
    ]


def repeated(
    count: int,
    *,
    prompts: int,
    deterministic: float,
    systems: int,
    system_tokens: int,
    least_tokens: int,
    most_tokens: int,
    answer_tokens: int,
    seed: int = 0,
) -> list[Turns]:
    """Returns single questions drawn from `prompts` ones by Zipf's law (the n-th as often as 1/n); a share of the
    requests has temperature 0.
    """
    draw = random.Random(seed)
    shared = [text(draw, system_tokens) for _ in range(systems)]
    known = [(draw.choice(shared), text(draw, draw.randint(least_tokens, most_tokens))) for _ in range(prompts)]
    weights = list(accumulate(1 / rank for rank in range(1, prompts + 1)))
    drawn = draw.choices(known, cum_weights=weights, k=count)
    return [Turns(system, [user], answer_tokens, draw.random() < deterministic) for system, user in drawn]


def mixed(count: int, *, seed: int = 0) -> list[Turns]:
    """Returns questions of all lengths that nobody asked before, for answers of all lengths."""
    draw = random.Random(seed)
    return [
        Turns(text(draw, 8), [text(draw, draw.choice((100, 400, 1300)))], draw.randrange(5, 60)) for _ in range(count)
    ]
