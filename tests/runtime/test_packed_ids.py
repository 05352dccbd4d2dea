"""Token ids as bytes, and back."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenserve.runtime.packed_ids import packed_ids, unpacked_ids

INT32 = st.integers(min_value=-(2**31), max_value=2**31 - 1)


@given(st.lists(INT32))
def test_ids_come_back(ids: list[int]) -> None:
    assert list(unpacked_ids(packed_ids(ids))) == ids
    assert packed_ids(array("i", ids)) == packed_ids(tuple(ids)) == packed_ids(ids)


def test_the_bytes_are_the_same_on_every_machine() -> None:
    assert packed_ids([1, -2, 0x01020304]) == bytes.fromhex("01000000 feffffff 04030201")


def test_what_are_no_ids_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        unpacked_ids(b"12345")
    with pytest.raises(ValueError, match="32 bits"):
        packed_ids([2**31])
