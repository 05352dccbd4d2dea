"""Kinds of tools about other things: a kind with one of its words replaced in names, descriptions and questions alike.

"How much pollen is there in Lyon?" with `get_pollen` becomes a question about avalanches, or about a word that does not exist. So
sentences as people say them go with words that the model has never seen, which is what a tool of an unknown kind is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache

from models.train_qwen3_tiny import words
from models.train_qwen3_tiny.slots import Family

COMMON = frozenset(
    "what when where which with from that this have does much many there will need want tell show find please about into like "
    "could between they them your mine should somebody people number name place time date city town person".split()
)


def replaceable(family: Family) -> tuple[str, ...]:
    """The words that the questions share with names or descriptions; empty where they have none in common."""
    taken = (*family.slots, *(value for slot in family.slots.values() for value in slot.values))
    return _shared(family.asks, (*family.names, *family.descriptions), taken)


@cache
def _shared(asks: tuple[str, ...], schema: tuple[str, ...], taken: tuple[str, ...]) -> tuple[str, ...]:
    common = _plain(asks) & _plain(schema) - COMMON - set(taken)
    return tuple(sorted(word for word in common if len(word) > 3))


def _plain(texts: Sequence[str]) -> set[str]:
    """The words of the texts in lower case and without the plural's s, leaving out slots."""
    found = re.findall(r"[A-Z]?[a-z]+", " ".join(re.sub(r"{\w+}", " ", text) for text in texts))
    return {word.lower().removesuffix("s") for word in found}


def about_something_else(rng: random.Random, family: Family, pool: Sequence[str]) -> tuple[Family, str] | None:
    """The kind with one of its words replaced by words of `pool` or an invented one, which come with it.

    Every question has the new words, and so have all names or all descriptions. None where nothing can be replaced.
    """
    options = replaceable(family)
    if not options:
        return None
    old = rng.choice(options)
    kind = rng.random()
    if kind < 0.4:
        new = words.invented(rng, False)
    elif kind < 0.75:
        new = rng.choice(pool)
    else:
        new = f"{rng.choice(pool)} {rng.choice(pool) if rng.random() < 0.7 else words.invented(rng, False)}"
    first = rf"(?<![A-Za-z{{]){old[0]}|(?<!{{){old[0].upper()}"  # camelCase has capitals inside
    pattern = re.compile(rf"({first})({old[1:]})(s?)(?![a-z}}])")

    def replaced(text: str, joint: str = " ") -> str:
        def instead(match: re.Match[str]) -> str:
            shown = new.replace(" ", joint)
            return (shown[0].upper() + shown[1:] if match[1].isupper() else shown) + match[3]

        return pattern.sub(instead, text)

    names = tuple(replaced(name, "_") for name in family.names)
    descriptions = tuple(map(replaced, family.descriptions))
    by_name = tuple(name for name in names if tells(name, new))
    by_description = tuple(text for text in descriptions if tells(text, new))
    if by_name and (not by_description or rng.random() < 0.5):
        names = by_name
    else:
        descriptions = by_description
    asks = tuple(text for text in map(replaced, family.asks) if tells(text, new))
    return family._replace(names=names, descriptions=descriptions, asks=asks, about=replaced(family.about)), new


def tells(text: str, new: str) -> bool:
    """Whether a name or a sentence has the new words."""
    return new in text.replace("_", " ").lower()
