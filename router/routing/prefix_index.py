"""Which worker has probably cached which prefix: recorded when a prompt is routed, bounded, forgotten oldest first.

Blocks have chained hashes (`runtime.block_hash`), so an equal hash means an equal prefix. The index only guides: a
wrong entry costs a prefill, never an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

_MAX_BLOCKS = 200_000
# Of a full index, the part that is forgotten at a time.
_SPARE_SHARE = 64


class _Holder:
    """A worker between two losses of its cache. Compared by identity: a restarted worker is another holder."""

    __slots__ = ("worker",)

    def __init__(self, worker: str) -> None:
        self.worker = worker


class PrefixIndex:
    """Block hash to the workers that were given it. Block sizes may be mixed: their hashes differ."""

    def __init__(self, max_blocks: int = _MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        # Least recently recorded first.
        self._holders: dict[int, frozenset[_Holder]] = {}
        # For each worker the set of it alone, shared by its blocks: most blocks have one holder, and a set for each of
        # them would be half of its memory.
        self._alone: dict[str, frozenset[_Holder]] = {}

    def match(self, hashes: Sequence[int]) -> Mapping[str, int]:
        """Returns for each worker how many of the leading blocks it has probably cached."""
        found: dict[_Holder, int] = {}
        holders_of = self._holders.get
        # Those that hold all blocks so far. Along most prefixes they stay the same.
        alive: frozenset[_Holder] | None = None
        count = 0
        for value in hashes:
            holders = holders_of(value)
            if holders is not alive:
                if holders is None:
                    break
                before, alive = alive, holders if alive is None else alive & holders
                for gone in (before or alive) - alive:
                    found[gone] = count
                if not alive:
                    break
            count += 1
        for holder in alive or ():
            found[holder] = count
        current = self._alone
        return {h.worker: n for h, n in found.items() if h in current.get(h.worker, ())}

    def record(self, worker: str, hashes: Sequence[int]) -> None:
        """Notes that a worker computes a prompt with these blocks."""
        alone = self._alone.get(worker)
        if alone is None:
            alone = self._alone[worker] = frozenset((_Holder(worker),))
        known = self._holders
        new_from = len(hashes)
        for position, value in enumerate(hashes):
            if value not in known:
                new_from = position
                break
        # The last blocks are recorded first and so forgotten first: what is left of a prefix must be its beginning.
        known.update(dict.fromkeys(reversed(hashes[new_from:]), alone))
        for value in reversed(hashes[:new_from]):
            holders = known.pop(value)
            known[value] = holders if alone <= holders else holders | alone
        if len(known) > self._max_blocks:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        # More than needed are removed at once: a dict's first entry is slow to find after many removals before it.
        surplus = len(self._holders) - self._max_blocks + self._max_blocks // _SPARE_SHARE
        for value in list(islice(self._holders, surplus)):
            del self._holders[value]

    def forget(self, worker: str) -> None:
        """Notes that a worker's cache is gone. What was recorded for it leaves the index as it ages."""
        self._alone.pop(worker, None)

    def __len__(self) -> int:
        return len(self._holders)
