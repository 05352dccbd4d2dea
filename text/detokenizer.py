"""Token ids to text, one at a time, in whole characters."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from qwenserve.text.tokenizer import Tokenizer

# A character of UTF-8 has at most 4 bytes, so an open one began at most 3 back.
_OPEN_BYTES = 3


class Detokenizer:
    """Text of a growing answer.

    `context` is the end of the prompt: where it stops inside a character, the first text completes that character.
    Bytes that can no longer become a character are U+FFFD; bytes that still can are held.
    """

    __slots__ = ("_borrowed", "_decoder", "_plain", "_tokenizer", "holding")

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._plain = tokenizer.plain_text
        # Made when a token needs it: few answers have one that is no whole character.
        self._decoder: codecs.IncrementalDecoder | None = None
        open_bytes = b""
        if context:
            open_bytes = _open_character(b"".join(map(tokenizer.token_bytes, context[-_OPEN_BYTES:])))
        if open_bytes:
            self._decoder = _new_decoder()
            self._decoder.decode(open_bytes)
        # Whether what is held came from the prompt. It is not the answer's to show if the answer drops it.
        self._borrowed = bool(open_bytes)
        self.holding = self._borrowed

    def step(self, token_id: int) -> str:
        """New text; empty inside a character."""
        if not self.holding:
            text = self._plain[token_id]
            if text is not None:
                return text
        decoder = self._decoder
        if decoder is None:
            decoder = self._decoder = _new_decoder()
        data = self._tokenizer.token_bytes(token_id)
        if self._borrowed and data:
            if not 0x80 <= data[0] < 0xC0:
                decoder.reset()
            self._borrowed = False
        text = decoder.decode(data)
        self.holding = bool(decoder.getstate()[0])
        return text

    def flush(self) -> str:
        """Closes what is held, where other text follows that cannot complete it: U+FFFD, or nothing."""
        if not self.holding or self._decoder is None:
            return ""
        text = "" if self._borrowed else self._decoder.decode(b"", True)
        self._decoder.reset()
        self._borrowed = self.holding = False
        return text


def _open_character(data: bytes) -> bytes:
    """The end of `data` that is the beginning of a character."""
    decoder = _new_decoder()
    decoder.decode(data)
    return decoder.getstate()[0]


def _new_decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")
