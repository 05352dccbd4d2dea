"""Token ids of calls about texts, by the hundred thousand: looked at and written in turns, between which the event loop
serves others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from qwenserve.tokenizer.v1 import tokenizer_pb2

# About a millisecond's work.
_IDS = 16_384
# The same of ids that are spelled one by one.
_PIECES = 4096


async def in_turns(ids: Sequence[int], size: int = _IDS) -> AsyncIterator[tuple[int, Sequence[int]]]:
    """Yields where each turn begins, and its ids."""
    for begin in range(0, len(ids), size):
        yield begin, ids[begin : begin + size]
        await asyncio.sleep(0)


async def ids_message(ids: Sequence[int], piece: Callable[[int], str] | None = None) -> tokenizer_pb2.TokenIds:
    """Returns ids as a message, with what `piece` says of each."""
    made = tokenizer_pb2.TokenIds()
    async for _, turn in in_turns(ids, _IDS if piece is None else _PIECES):
        made.ids.extend(turn)
        if piece is not None:
            made.tokens.extend(map(piece, turn))
    return made
