"""The chained block hash: what it is, for ever, and what it tells apart."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from qwenserve.runtime.block_hash import PromptBlocks, block_hash, block_hashes, salt_hash

IDS = list(range(100, 148))


def test_the_hash_is_the_same_in_every_release() -> None:
    """A change of these numbers makes routers, engines and the store of two releases strangers to each other."""
    assert salt_hash("") == 241225442164632184
    assert list(block_hashes(IDS, 16)) == [12756412388118041899, 3676189482502182126, 3478786766064471412]
    assert list(block_hashes(IDS, 32, "tenant")) == [6437184980987382980]


def test_another_process_has_the_same_hashes() -> None:
    code = "from qwenserve.runtime.block_hash import block_hashes as h; print(list(h(range(100, 148), 16, 'é')))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout

    assert said.strip() == str(list(block_hashes(IDS, 16, "é")))


@given(
    st.lists(st.integers(0, 2**31 - 1), max_size=80),
    st.integers(1, 20),
    st.sampled_from(["", "a", "tenant"]),
)
def test_a_chain_is_its_blocks_one_after_the_other(ids: list[int], size: int, salt: str) -> None:
    parent = salt_hash(salt)
    expected = []
    for start in range(0, len(ids) - size + 1, size):
        parent = block_hash(parent, ids[start : start + size])
        expected.append(parent)

    assert list(block_hashes(ids, size, salt)) == expected


@given(st.lists(st.integers(0, 3), min_size=8, max_size=40), st.data())
def test_one_other_id_changes_its_block_and_all_that_follow(ids: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(ids) - 1))
    other = [*ids]
    other[place] += 1
    one, two = block_hashes(ids, 4), block_hashes(other, 4)

    assert [a == b for a, b in zip(one, two, strict=True)] == [block < place // 4 for block in range(len(one))]


def test_salts_share_no_hash() -> None:
    assert not set(block_hashes(IDS, 16, "a")) & set(block_hashes(IDS, 16, "b"))
    assert not set(block_hashes(IDS, 16)) & set(block_hashes(IDS, 16, "b"))


def test_a_prompt_is_hashed_once_for_each_block_size() -> None:
    prompt = PromptBlocks(IDS, "s")

    assert prompt.hashes(16) is prompt.hashes(16)
    assert (len(prompt.hashes(16)), len(prompt.hashes(32))) == (3, 1)
