"""Token ids in one piece of memory: four bytes for each, where a list of numbers takes forty.

They are copied, packed and hashed as they lie. A list is made of, and taken apart into, an object for every id: of a
new prompt of 200 ids that was a twentieth of what a router does.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence

# A number of 32 bits with a sign, in the processor's order.
ID_TYPE = "i"


def id_array(ids: Sequence[int]) -> array[int]:
    """Returns ids as an array: themselves where they are one."""
    if isinstance(ids, array):
        return ids
    # By way of bytes: an array made of a list parses each element like an argument.
    return array(ID_TYPE, struct.pack(f"{len(ids)}i", *ids))


def joined(parts: Iterable[array[int]]) -> array[int]:
    """Returns the ids of all parts, one after the other."""
    return array(ID_TYPE, b"".join(parts))
