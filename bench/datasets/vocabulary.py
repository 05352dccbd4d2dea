"""What random prompts are made of: token ids, or words that are one token each, so that lengths are exact.

A word with a space in front is one piece for the pre-tokenizer, so a text of N such words is N tokens whatever stands
beside them. Which words those are is asked of the server's own `/tokenize`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np

_CANDIDATES = """
a about after again air all along also an and animal another answer any are around as ask at away back be
because been before began being below between big book both boy but by call came can car carry change children city
close come could country cut day did different do does done door down each earth eat end enough even every example eye
face family far father feet few find first five follow food for form found four from get girl give go good got great
group grow had hand hard has have he head hear help her here high him his home house how idea if important in into is
it its just keep kind know land large last late learn leave left let letter life light like line list little live long
look made make man many may me mean men might mile more morning most mother mountain move much must my name near need
never new next night no not now number of off often old on once one only open or order other our out over own page
paper part people place plant play point put question quick quite read really right river run said same saw say school
sea second see seem sentence set she should show side small so some something sometimes song soon sound spell start
state still stop story study such sun take talk tell than that the their them then there these they thing think this
those thought three through time to together too took tree try turn two under until up us use very walk want was watch
water way we well went were what when where which while white who why will with without word work world would write
year you young your
"""
CANDIDATES = tuple(_CANDIDATES.split())
_FEWEST_WORDS = 16


class Vocabulary(NamedTuple):
    """What to draw from. `words` is empty where only ids are known; otherwise `words[i]` is the one token `ids[i]`."""

    ids: Sequence[int]
    words: Sequence[str] = ()

    def draw(self, count: int, random: np.random.Generator) -> Sequence[int]:
        """Returns `count` positions."""
        return [int(i) for i in random.integers(0, len(self.ids), count)]

    def to_ids(self, positions: Sequence[int]) -> tuple[int, ...]:
        """Returns drawn positions as token ids."""
        return tuple(self.ids[i] for i in positions)

    def to_text(self, positions: Sequence[int]) -> str:
        """Returns drawn positions as a text of as many tokens. Raises ValueError where no words are known."""
        if not self.words:
            raise ValueError("no words are known to be one token each: the server has no /tokenize")
        return "".join(f" {self.words[i]}" for i in positions)

    @classmethod
    def from_range(cls, text: str) -> Vocabulary:
        """Reads `LEAST:MOST`, token ids both included. Raises ValueError."""
        least, _, most = text.partition(":")
        try:
            ids = range(int(least), int(most) + 1)
        except ValueError:
            ids = range(0)
        if not ids or ids[0] < 0:
            raise ValueError(f"{text!r} is no range of token ids; give LEAST:MOST")
        return cls(ids)

    @classmethod
    def uncounted(cls) -> Vocabulary:
        """All candidate words, with lengths in words: for files whose server is not known yet."""
        return cls(range(len(CANDIDATES)), CANDIDATES)


async def ask(
    tokenize: Callable[[str], Awaitable[Sequence[int]]], candidates: Sequence[str] = CANDIDATES
) -> Vocabulary:
    """Returns the candidates that are one token each by `tokenize`. Raises ValueError when hardly any is."""
    found = []
    for word in candidates:
        ids = await tokenize(f" {word}")
        if len(ids) == 1:
            found.append((ids[0], word))
    if len(found) < _FEWEST_WORDS:
        raise ValueError(f"only {len(found)} common words are one token for this server; send ids (--token-range)")
    vocabulary = Vocabulary([i for i, _ in found], [word for _, word in found])
    together = await tokenize(vocabulary.to_text(range(len(found))))
    if list(together) != list(vocabulary.ids):
        raise ValueError("this server's tokens depend on their neighbours: lengths cannot be exact; send ids")
    return vocabulary
