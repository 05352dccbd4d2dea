"""How long prompts and answers are, in tokens."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np


class Lengths(NamedTuple):
    """A distribution of lengths. `fixed`: always `a`; `normal`: mean `a`, deviation `b`; `uniform`: `a` to `b`."""

    kind: Literal["fixed", "normal", "uniform"]
    a: float
    b: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """Reads `200`, `normal:200:50` or `uniform:100:300`. Raises ValueError."""
        kind, *numbers = text.split(":")
        try:
            if not numbers:
                return _checked(cls("fixed", int(kind)))
            a, b = map(float, numbers)
        except ValueError:
            raise ValueError(f"{text!r} is no length; give N, normal:MEAN:DEVIATION or uniform:LEAST:MOST") from None
        if kind == "normal" and b >= 0:
            return _checked(cls("normal", a, b))
        if kind == "uniform" and b >= a:
            return _checked(cls("uniform", a, b))
        raise ValueError(f"{text!r} is no length; give N, normal:MEAN:DEVIATION or uniform:LEAST:MOST")

    def draw(self, count: int, random: np.random.Generator) -> list[int]:
        """Returns `count` lengths, each 1 or more."""
        if self.kind == "fixed":
            return [int(self.a)] * count
        if self.kind == "normal":
            drawn = random.normal(self.a, self.b, count)
        else:
            drawn = random.integers(int(self.a), int(self.b), count, endpoint=True).astype(np.float64)
        return [max(1, round(float(value))) for value in drawn]

    def __str__(self) -> str:
        return f"{self.a:g}" if self.kind == "fixed" else f"{self.kind}:{self.a:g}:{self.b:g}"


def _checked(lengths: Lengths) -> Lengths:
    if lengths.a < 1:
        raise ValueError(f"a length of {lengths.a:g} tokens; it must be 1 or more")
    return lengths
