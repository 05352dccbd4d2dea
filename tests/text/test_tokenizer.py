from __future__ import annotations

import asyncio
import json
import unicodedata

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.text.id_arrays import id_array
from qwenserve.text.tokenizer import INLINE_CHARACTERS, INLINE_IDS, SegmentCache, Tokenizer, UnsupportedTokenizer
from tests.fixtures.conversations import TEXTS
from tests.fixtures.full_tokenizer import TINY_MODEL

BACKEND = tokenizers.Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
TOKENIZER = Tokenizer(BACKEND)
# Texts in which added tokens stand next to whatever could join or normalize across them.
PIECES = st.lists(
    st.one_of(
        st.sampled_from([*TOKENIZER.added_ids, *TEXTS, "<|im_", "end|>", "<", "\u0301", "e", " ", "\n", "'s", "\r"]),
        st.text(max_size=8),
    ),
    max_size=12,
).map("".join)
DERANDOMIZED = settings(derandomize=True, max_examples=400, deadline=None)


def reference(text: str) -> list[int]:
    ids: list[int] = BACKEND.encode(text, add_special_tokens=False).ids
    return ids


@DERANDOMIZED
@given(PIECES)
def test_ids_of_segments_are_the_ids_of_the_text(text):
    """Cutting at added tokens changes no id, whatever is already cached."""
    assert reference(text) == TOKENIZER.encode(text).tolist()
    assert reference(text) == TOKENIZER.encode(text).tolist()


@DERANDOMIZED
@given(PIECES)
def test_decoding_gives_the_normalized_text_back(text):
    """Bytes of tokens, joined, are the text; the library decodes the same."""
    ids = TOKENIZER.encode(text)

    assert BACKEND.decode(ids, skip_special_tokens=False) == TOKENIZER.decode(ids)
    assert BACKEND.decode(ids, skip_special_tokens=True) == TOKENIZER.decode(ids, skip_special_tokens=True)
    if not any(token in text for token in TOKENIZER.added_ids):
        assert unicodedata.normalize("NFC", text) == TOKENIZER.decode(ids)


@DERANDOMIZED
@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=20))
def test_any_ids_decode_as_in_the_library(ids):
    """Ids that no text gives, with broken characters, read the same."""
    assert BACKEND.decode(ids, skip_special_tokens=False) == TOKENIZER.decode(ids)


def test_full_size_ids(assets):
    """The same for the models themselves."""
    for text in TEXTS:
        assert text == assets.tokenizer.decode(assets.tokenizer.encode(text)) or not unicodedata.is_normalized(
            "NFC", text
        )


async def test_encode_async_gives_the_same_ids():
    """Inline, in a thread, and partly from the cache."""
    tokenizer = Tokenizer(BACKEND)
    for text in ("", "short", "x y " * INLINE_CHARACTERS, "x y " * INLINE_CHARACTERS + "<|im_end|>" + "new " * 4000):
        assert reference(text) == (await tokenizer.encode_async(text)).tolist()
        assert reference(text) == (await tokenizer.encode_async(text)).tolist()


# Each example runs an event loop twice: a few dozen say as much as hundreds.
@settings(DERANDOMIZED, max_examples=30)
@given(st.lists(PIECES, max_size=5))
def test_a_batch_gives_the_ids_of_each_text(texts):
    """Whatever the texts share, and whatever is cached already."""
    tokenizer = Tokenizer(BACKEND)
    for _ in range(2):
        batch = asyncio.run(tokenizer.encode_batch_async(texts))
        assert [reference(text) for text in texts] == [ids.tolist() for ids in batch]


async def test_a_large_batch_lets_the_loop_run():
    """Other tasks go on while a thousand texts are tokenized."""
    tokenizer = Tokenizer(BACKEND)
    texts = [f"Text {n}: words and more words. " * 20 for n in range(1_000)]
    task = asyncio.create_task(tokenizer.encode_batch_async(texts))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1

    assert turns > 10
    assert [tokenizer.encode(text) for text in texts] == await task


async def test_a_long_text_lets_the_loop_run():
    """Other tasks go on while a long prompt is tokenized."""
    tokenizer = Tokenizer(BACKEND)
    task = asyncio.create_task(tokenizer.encode_async("Words and more words, 12 of them. " * 5_000))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1

    assert turns > 10
    assert reference("Words and more words, 12 of them. " * 5_000) == (await task).tolist()


def test_the_cache_is_bounded_by_bytes():
    """Old segments make room for new ones, and one that is too large is not kept."""
    cache = SegmentCache(10_000)
    for n in range(100):
        cache.put([f"segment {n}"], [id_array([n] * 10)])
        assert cache.bytes_used <= 10_000
    kept = len(cache)
    cache.put(["x" * 50_000], [id_array([1])])

    assert 10 < kept < 100
    assert kept == len(cache)
    assert list(cache.get("segment 99") or ()) == [99] * 10
    assert "segment 0" not in cache


def test_the_cache_keeps_what_is_used():
    """A use makes a segment the newest."""
    cache = SegmentCache(2_000)
    cache.put(["first"], [id_array([1])])
    for n in range(20):
        cache.get("first")
        cache.put([str(n)], [id_array([n])])

    assert "first" in cache
    assert "0" not in cache


def test_a_tokenizer_without_a_cache_still_encodes():
    """Segments that do not fit are encoded each time."""
    tokenizer = Tokenizer(BACKEND, cache_bytes=0)

    assert reference("a<|im_end|>b") == tokenizer.encode("a<|im_end|>b").tolist()


def test_lone_surrogates_are_replaced():
    """JSON can carry halves of UTF-16 pairs; they are no characters."""
    assert reference("a\ufffdb 🌦") == TOKENIZER.encode("a\ud83cb \ud83c\udf26").tolist()


def test_single_tokens(tiny):
    """Text, bytes and ids of one token; unknown ones have none."""
    tokenizer = tiny.tokenizer
    end = tokenizer.added_ids["<|im_end|>"]

    assert end == tokenizer.id_of("<|im_end|>")
    assert end in tokenizer.special_ids
    assert tokenizer.added_ids["<think>"] not in tokenizer.special_ids
    assert tokenizer.id_of("no such token") is None
    assert tokenizer.token_text(end) == "<|im_end|>"
    assert tokenizer.token_bytes(tokenizer.vocab_size + 5) == b""
    assert tokenizer.token_bytes(-1) == b""
    assert tokenizer.decode([tokenizer.vocab_size + 5, end]) == "<|im_end|>"


async def test_many_ids_are_decoded_in_turns(tiny):
    """Characters across the places where it is cut included; others on the event loop have their turns."""
    tokenizer = tiny.tokenizer
    ids = [*tokenizer.encode("é🙂<|im_end|>") * 20_000]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(others())
    try:
        whole = await tokenizer.decode_async(ids)
        plain = await tokenizer.decode_async(ids, skip_special_tokens=True)
    finally:
        beside.cancel()

    assert whole == tokenizer.decode(ids)
    assert plain == tokenizer.decode(ids, skip_special_tokens=True)
    assert turns >= 2 * (len(ids) // INLINE_IDS)


def test_pieces_are_the_vocabularys_own(tiny):
    """Each is the entry that the library has for the id, so no two ids share one."""
    tokenizer = tiny.tokenizer
    ids = range(BACKEND.get_vocab_size(with_added_tokens=True))

    assert [tokenizer.token_piece(i) for i in ids] == [BACKEND.id_to_token(i) for i in ids]
    assert [tokenizer.token_piece(i) for i in tokenizer.encode("a é")] == ["a", "Ġ", "Ã", "©"]
    assert tokenizer.token_piece(tokenizer.vocab_size + 5) == ""


def test_plain_text_leaves_out_what_needs_care(tiny):
    """Added tokens, parts of characters, unknown ids and unwanted endings are None."""
    tokenizer = tiny.tokenizer
    newline = tokenizer.encode("\n")[0]
    word = tokenizer.encode("the")[0]
    half = next(i for i in range(256) if tokenizer.token_bytes(i) == b"\xe4")

    assert tokenizer.plain_text[newline] == "\n"
    assert tokenizer.text_before_newlines[newline] is None
    assert tokenizer.text_before_space[newline] is None
    assert tokenizer.plain_text[word] == tokenizer.token_text(word)
    assert tokenizer.text_before_space[word] is tokenizer.text_before_newlines[word] is tokenizer.plain_text[word]
    for careful in (half, tokenizer.added_ids["<think>"], tokenizer.vocab_size + 5):
        assert tokenizer.plain_text[careful] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, added_tokens=[]),
        lambda d: d.update(decoder=None),
        lambda d: d.update(pre_tokenizer={"type": "Whitespace"}),
        lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
    ],
)
def test_other_kinds_of_tokenizers_are_refused(change):
    """What segments or bytes could get wrong is refused at the start."""
    description = json.loads(BACKEND.to_str())
    change(description)

    with pytest.raises(UnsupportedTokenizer):
        Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(description)))


def test_tokens_that_reach_into_their_surroundings_are_not_cut_at():
    """An added token that takes white space with it still gives the library's ids."""
    backend = tokenizers.Tokenizer.from_str(BACKEND.to_str())
    backend.add_tokens([tokenizers.AddedToken("<pad here>", lstrip=True, rstrip=True, normalized=False)])
    text = "a <|im_end|>  <pad here>  b<pad here>"

    assert backend.encode(text, add_special_tokens=False).ids == Tokenizer(backend).encode(text).tolist()
