"""Lays documents end to end into batches of a fixed number of tokens, short and long ones apart.

Attention is laid out for the longest document of a batch, so that mixing both would waste most of its work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.train_qwen3_tiny.stream import Block

SHORT = 1536
LONG = 8192
LONG_EVERY = 4  # steps; they fill up more slowly than that


class Batch(NamedTuple):
    """`bounds` are document starts and the end, padded with the end to a fixed length."""

    ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int32]
    longest: int


class Packer:
    """Takes blocks from `source` and gives back batches: one of short documents in each step, at times a long one too."""

    def __init__(self, source: Callable[[], Block], tokens: int) -> None:
        self._source, self._tokens = source, tokens
        self._waiting: dict[int, list[tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]]] = {SHORT: [], LONG: []}
        self._sizes = {SHORT: 0, LONG: 0}
        self._steps = 0

    def step(self) -> list[Batch]:
        """The batches of one optimizer step."""
        while self._sizes[SHORT] < self._tokens:
            self._add(self._source())
        # Long batches have their turn, so that processes that divide a step do not wait for one another.
        long = self._steps % LONG_EVERY == 0 and self._sizes[LONG] >= self._tokens
        self._steps += 1
        ready = [SHORT] + [LONG] * long
        return [self._fill(longest) for longest in ready]

    def _add(self, block: Block) -> None:
        start = 0
        for length in block.lengths.tolist():
            longest = SHORT if length <= SHORT else LONG
            self._waiting[longest].append((block.ids[start : start + length], block.weights[start : start + length]))
            self._sizes[longest] += length
            start += length

    def _fill(self, longest: int) -> Batch:
        waiting = self._waiting[longest]
        lengths: list[int] = []
        total = 0
        while total < self._tokens:
            lengths.append(min(len(waiting[len(lengths)][0]), self._tokens - total))
            total += lengths[-1]
        taken = waiting[: len(lengths)]
        self._waiting[longest] = waiting[len(lengths) :]
        self._sizes[longest] -= sum(len(ids) for ids, _ in taken)
        ids = np.concatenate([ids[:n] for (ids, _), n in zip(taken, lengths, strict=True)]).astype(np.int32)
        weights = np.concatenate([weights[:n] for (_, weights), n in zip(taken, lengths, strict=True)])
        return Batch(ids, weights, _bounds(lengths, self._tokens, longest), longest)


def _bounds(lengths: Sequence[int], tokens: int, longest: int) -> npt.NDArray[np.int32]:
    room = tokens // (96 if longest == SHORT else SHORT) + 2
    if len(lengths) + 1 > room:
        raise ValueError(f"{len(lengths)} documents in {tokens} tokens are more than expected")
    bounds = np.full(room, tokens, dtype=np.int32)
    bounds[0] = 0
    bounds[1 : len(lengths) + 1] = np.cumsum(lengths)
    return bounds
