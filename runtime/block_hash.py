"""The chained hash of KV blocks: one definition for routers, engines' cache events and the store.

A block is `block_tokens` ids. Its hash is

    hash[0] = first 8 bytes of BLAKE2b(salt hash ‖ ids of block 0)
    hash[n] = first 8 bytes of BLAKE2b(hash[n - 1] ‖ ids of block n)

with ids as little-endian 32-bit integers and the salt hash the same 8 bytes of BLAKE2b(salt as UTF-8). So an equal hash
means an equal prefix under an equal salt (but for one chance in 2**64 a pair), in every process, on every machine and
in every release. Hashes are handed out as integers, their 8 bytes read little-endian. Prefixes of different salts share
no hash, which keeps tenants apart. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from qwenserve.runtime.packed_ids import packed_ids

# For engines that do not say how large their blocks are.
DEFAULT_BLOCK_TOKENS = 32

_HASH_BYTES = 8
_ID_BYTES = 4


@lru_cache(maxsize=1024)
def salt_hash(salt: str) -> int:
    """Returns the hash that stands before a sequence's first block."""
    return int.from_bytes(blake2b(salt.encode()).digest()[:_HASH_BYTES], "little")


def block_hash(parent: int, token_ids: Sequence[int]) -> int:
    """Returns the hash of one full block after the block `parent`, or after `salt_hash`. The ids fit into 32 bits."""
    content = struct.pack(f"<Q{len(token_ids)}i", parent, *token_ids)
    return int.from_bytes(blake2b(content).digest()[:_HASH_BYTES], "little")


def block_hashes(token_ids: Sequence[int], block_tokens: int, salt: str = "") -> Sequence[int]:
    """Returns the hash of every full block of a prompt, in order. `block_tokens` is 1 or more."""
    return following_hashes(salt_hash(salt), token_ids, block_tokens)


def following_hashes(before: int, token_ids: Sequence[int], block_tokens: int) -> Sequence[int]:
    """Returns the hash of every full block, in order, after the block `before`, or after `salt_hash`."""
    count = len(token_ids) // block_tokens
    if not count:
        return ()
    if count == 1:
        return (block_hash(before, token_ids[:block_tokens]),)
    packed = packed_ids(token_ids)
    width = _ID_BYTES * block_tokens
    blocks = struct.iter_unpack(f"{width}s", memoryview(packed)[: count * width])
    hashed = blake2b
    parent = before.to_bytes(_HASH_BYTES, "little")
    # A full digest that is cut: naming its size in each call costs a sixth more.
    chain = [parent := hashed(parent + block).digest()[:_HASH_BYTES] for (block,) in blocks]
    return struct.unpack(f"<{count}Q", b"".join(chain))


class PromptBlocks:
    """A prompt's block hashes, worked out once for each block size that is asked for."""

    __slots__ = ("_found", "_salt", "token_ids")

    def __init__(self, token_ids: Sequence[int], salt: str = "") -> None:
        """`token_ids` is kept, not copied, and must not change."""
        self.token_ids = token_ids
        self._salt = salt
        self._found: dict[int, Sequence[int]] = {}

    def hashes(self, block_tokens: int) -> Sequence[int]:
        """Returns the hashes of the full blocks of that size."""
        found = self._found.get(block_tokens)
        if found is None:
            found = self._found[block_tokens] = block_hashes(self.token_ids, block_tokens, self._salt)
        return found
