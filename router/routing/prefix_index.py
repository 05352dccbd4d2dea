"""Which worker has probably cached which prefix: recorded when a prompt is routed, bounded, forgotten oldest first.

Blocks are hashed in a chain, so an equal hash means an equal prefix. The index only guides: a wrong entry costs a
prefill, never an answer.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

BLOCK_TOKENS = 32
_MAX_BLOCKS = 200_000


class PrefixIndex:
    """Block hash to the workers that were given it."""

    def __init__(self, max_blocks: int = _MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._holders: OrderedDict[int, frozenset[str]] = OrderedDict()
        # One set for each worker: most blocks have one holder, and a set of their own would be half of what they cost.
        self._alone: dict[str, frozenset[str]] = {}

    def match(self, token_ids: Sequence[int], cache_salt: str = "") -> Mapping[str, int]:
        """Returns for each worker how many leading tokens it has probably cached."""
        found: dict[str, int] = {}
        for position, block in enumerate(block_hashes(token_ids, cache_salt), start=1):
            holders = self._holders.get(block)
            if holders is None:
                break
            # Only workers that hold every earlier block as well.
            extended = [w for w in holders if position == 1 or found.get(w) == (position - 1) * BLOCK_TOKENS]
            if not extended:
                break
            for worker in extended:
                found[worker] = position * BLOCK_TOKENS
        return found

    def record(self, worker: str, token_ids: Sequence[int], cache_salt: str = "") -> None:
        """Notes that a worker computes this prompt."""
        alone = self._alone.setdefault(worker, frozenset((worker,)))
        for block in block_hashes(token_ids, cache_salt):
            holders = self._holders.get(block)
            if holders is None:
                self._holders[block] = alone
            elif worker not in holders:
                self._holders[block] = holders | {worker}
            self._holders.move_to_end(block)
        while len(self._holders) > self._max_blocks:
            self._holders.popitem(last=False)

    def __len__(self) -> int:
        return len(self._holders)


def block_hashes(token_ids: Sequence[int], cache_salt: str = "", block_tokens: int = BLOCK_TOKENS) -> Iterator[int]:
    """Yields the chained hash of every whole block; the chain begins with the salt."""
    packed = array("i", token_ids).tobytes()
    width = 4 * block_tokens
    parent = hash(cache_salt) if cache_salt else 0
    for start in range(0, len(packed) - width + 1, width):
        parent = hash((parent, packed[start : start + width]))
        yield parent
