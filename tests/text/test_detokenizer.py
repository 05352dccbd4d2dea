from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qwenserve.text.assets import load_assets
from qwenserve.text.detokenizer import Detokenizer
from tests.fixtures.full_tokenizer import TINY_MODEL

TOKENIZER = load_assets(TINY_MODEL).tokenizer
OF_BYTE = {TOKENIZER.token_bytes(i): i for i in range(256)}


def stepped(ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(TOKENIZER)
    return [*(detokenizer.step(i) for i in ids), detokenizer.flush()]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text())
def test_whole_characters_only(text):
    """Steps give the text, never a replacement character that is not in it, and the last one leaves nothing held."""
    ids = TOKENIZER.encode(text).tolist()
    expected = TOKENIZER.decode(ids)
    steps = stepped(ids)

    assert expected == "".join(steps)
    assert steps[-1] == ""
    assert ("\ufffd" in expected) == any("\ufffd" in step for step in steps)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_read_as_utf8(data):
    """Bytes that are no character become U+FFFD as a decoder of the whole would make them."""
    assert data.decode("utf-8", "replace") == "".join(stepped([OF_BYTE[bytes([byte])] for byte in data]))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(min_size=1), st.data())
def test_a_prompt_cut_anywhere(text, data):
    """With the prompt's end as context, answer and prompt together are the text."""
    raw = text.encode()
    ids = [OF_BYTE[bytes([byte])] for byte in raw]
    at = data.draw(st.integers(0, len(ids)))
    detokenizer = Detokenizer(TOKENIZER, context=ids[:at])
    answer = "".join(detokenizer.step(i) for i in ids[at:])

    whole = raw[:at].decode("utf-8", "ignore")
    assert raw.decode() == whole + answer
