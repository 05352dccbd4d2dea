"""What one worker would have found cached that never forgets anything: the most that can be reused. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from qwenserve.runtime.block_hash import block_hashes


class UnboundedCache:
    """The blocks of all prompts and answers so far, in blocks of an engine's size; 1 for engines without blocks."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._known: set[int] = set()

    def look(self, prompt: Sequence[int]) -> int:
        """Returns how many of a prompt's tokens are there. The last one is always computed."""
        size = self._block_tokens
        hashes = block_hashes(prompt, size)[: (len(prompt) - 1) // size]
        found = next((n for n, value in enumerate(hashes) if value not in self._known), len(hashes))
        return found * size

    def keep(self, token_ids: Sequence[int]) -> None:
        """Notes a prompt with its answer."""
        self._known.update(block_hashes(token_ids, self._block_tokens))


def reusable(requests: Sequence[tuple[Sequence[int], Sequence[int]]], block_tokens: int) -> list[int]:
    """Returns for each request, a prompt and its answer's ids in the order of sending, what was there before it. What
    was sent counts as there at once: a real worker may have to compute it for two that come together.
    """
    cache = UnboundedCache(block_tokens)
    found = []
    for prompt, answer in requests:
        found.append(cache.look(prompt))
        cache.keep([*prompt, *answer])
    return found
