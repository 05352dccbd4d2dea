"""Text to token ids and back, for the byte-level BPE vocabularies of the Qwen family.

Encoding works on *segments*: the pieces between added tokens such as `<|im_end|>`. The library cuts a text at
these tokens before it normalizes or pre-tokenizes anything, so the ids of a text are the ids of its segments, one
after the other. Segments therefore can be cached: a chat that shares all but its last turn with an earlier one
costs only the new turn.

Decoding goes through bytes. Every token is a fixed byte string, and a text is the bytes of its tokens read as
UTF-8; that is both quicker than asking the library per token and exact where a token ends inside a character.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType

import tokenizers

from qwenserve.text.bpe import BYTE_OF, Encoder, ReferenceEncoder, encoder_for
from qwenserve.text.id_arrays import id_array, joined
from qwenserve.text.tokenizers_parts import Parts

# The library spreads a batch over a pool of threads unless told otherwise. The batches here are the segments of one
# prompt: the pool's waiting costs more than it gains (0.03 ms a call, and 10 to 20 % of a long prompt's CPU time).
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Characters that are tokenized on the event loop itself. 8,000 take about 0.5 ms, eight times what the hop to a
# thread costs; longer texts would be felt by the streams beside them.
INLINE_CHARACTERS = 8_000

# Ids that are decoded in one go, about 2 ms.
INLINE_IDS = 16_384

# What cached segments may occupy. A cached character costs at most 4 bytes and its id 4 more.
CACHE_BYTES = 32 << 20

_SPELLING = {byte: character for character, byte in BYTE_OF.items()}

_NO_IDS = id_array(())

# Objects around one cache entry: two containers, the key's and the value's headers.
_ENTRY_BYTES = 320


class UnsupportedTokenizer(ValueError):
    """The tokenizer is not a byte-level BPE one, or alters texts in a way that segments cannot follow."""


class Tokenizer:
    """A tokenizer of one model, with a cache over segments.

    `encode` and `encode_async` belong to one thread (the latter sends its own long work to another); decoding may be
    called from any.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        cache_bytes: int = CACHE_BYTES,
        reload: Callable[[], tokenizers.Tokenizer] | None = None,
    ) -> None:
        """`reload` makes `backend` again, so that it need not be kept where a quicker encoder does its work."""
        _require_byte_level(backend)
        added = backend.get_added_tokens_decoder()
        self.added_ids: Mapping[str, int] = MappingProxyType({token.content: i for i, token in added.items()})
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        # Cutting leaves empty texts between added tokens that follow each other.
        self._added_segments = {"": _NO_IDS, **{token.content: id_array((i,)) for i, token in added.items()}}
        self.added_text: Mapping[int, str] = MappingProxyType({i: token.content for i, token in added.items()})
        # Not the library's count alone: ids may have holes, as in vocabularies rebuilt without their padding.
        self.vocab_size = max(backend.get_vocab_size(with_added_tokens=True), 1 + max(added, default=0))
        self._cut = _segment_pattern(added.values())
        # Texts that cannot be cut at added tokens are encoded by the library itself, which knows these tokens.
        self._encoder: Encoder = (
            ReferenceEncoder(backend, finds_added=True) if self._cut is None else encoder_for(backend, reload)
        )
        self._cache = SegmentCache(cache_bytes)
        self._bytes = _TokenBytes(self._encoder, self.added_text)
        self.plain_text: Mapping[int, str | None] = _PlainText(self._encoder, self.added_text)
        self.text_before_newlines: Mapping[int, str | None] = _TextBefore(self.plain_text, "\n")
        self.text_before_space: Mapping[int, str | None] = _TextBefore(self.plain_text, None)

    @property
    def cache_bytes_used(self) -> int:
        """What the cached segments occupy."""
        return self._cache.bytes_used

    def encode(self, text: str, mark: str = "") -> array[int]:
        """Token ids of `text`, in an array of the caller's; added tokens written out in it become their ids, and
        nothing is put around it.

        `mark` is a character that keeps added tokens from being found (see `text.content_guard`). It is taken out.
        """
        segments, known, missing = self._look_up(text, mark)
        if missing:
            self._learn(known, missing, self._encoder.encode(missing))
        return joined(map(known.__getitem__, segments))

    async def encode_async(self, text: str, mark: str = "") -> array[int]:
        """As `encode`, without blocking the event loop: long work is in a thread and releases the interpreter lock."""
        segments, known, missing = self._look_up(text, mark)
        if missing:
            if len(text) <= INLINE_CHARACTERS or sum(map(len, missing)) <= INLINE_CHARACTERS:
                encoded = self._encoder.encode(missing)
            else:
                encoded = await asyncio.to_thread(self._encoder.encode, missing)
            self._learn(known, missing, encoded)
        return joined(map(known.__getitem__, segments))

    async def encode_batch_async(self, texts: Sequence[str]) -> list[array[int]]:
        """As `encode_async` for each text: what is new in them goes to one thread together, however many they are."""
        looked_up = []
        since_pause = 0
        for text in texts:
            looked_up.append(self._look_up(text))
            since_pause += len(text)
            if since_pause > INLINE_CHARACTERS:
                since_pause = 0
                await asyncio.sleep(0)
        missing = list(dict.fromkeys(chain.from_iterable(new for _, _, new in looked_up)))
        if sum(map(len, missing)) <= INLINE_CHARACTERS:
            encoded = self._encoder.encode(missing)
        else:
            encoded = await asyncio.to_thread(self._encoder.encode, missing)
        learnt = dict(zip(missing, encoded, strict=True))
        self._cache.put(missing, encoded)
        found = []
        for segments, known, new in looked_up:
            known.update((segment, learnt[segment]) for segment in new)
            found.append(joined(map(known.__getitem__, segments)))
            since_pause += len(found[-1])
            if since_pause > INLINE_CHARACTERS:
                since_pause = 0
                await asyncio.sleep(0)
        return found

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Text of `ids`. Bytes that are no UTF-8 become U+FFFD; ids outside the vocabulary have no text."""
        if skip_special_tokens:
            special = self.special_ids
            ids = [i for i in ids if i not in special]
        return b"".join(map(self._bytes.__getitem__, ids)).decode("utf-8", "replace")

    async def decode_async(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """As `decode`, with turns for others on the event loop: a thread would keep the interpreter to itself."""
        pieces = []
        special = self.special_ids
        for begin in range(0, len(ids), INLINE_IDS):
            if begin:
                await asyncio.sleep(0)
            part = ids[begin : begin + INLINE_IDS]
            if skip_special_tokens:
                part = [i for i in part if i not in special]
            pieces.append(b"".join(map(self._bytes.__getitem__, part)))
        return b"".join(pieces).decode("utf-8", "replace")

    def token_text(self, token_id: int) -> str:
        """Text of one token; a part of a character shows U+FFFD."""
        return self._bytes[token_id].decode("utf-8", "replace")

    def token_piece(self, token_id: int) -> str:
        """The vocabulary's own spelling of one token, `Ġcapital`: byte by byte, so that parts of characters differ from
        each other. Added tokens are spelled as they are; an id outside the vocabulary has the empty text.
        """
        added = self.added_text.get(token_id)
        return "".join(map(_SPELLING.__getitem__, self._bytes[token_id])) if added is None else added

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; empty for an id outside the vocabulary."""
        return self._bytes[token_id]

    def id_of(self, token: str) -> int | None:
        """Id of an added token such as `<|im_end|>`, or of a vocabulary entry in its byte-level spelling."""
        found = self.added_ids.get(token)
        return self._encoder.id_of(token) if found is None else found

    def _look_up(self, text: str, mark: str = "") -> tuple[list[str], dict[str, array[int]], list[str]]:
        """The text's segments, the ids of those that are known, and those that are not."""
        segments = [text] if self._cut is None else self._cut.split(text)
        known = self._added_segments.copy()
        if mark and mark in text:
            segments = self._unmarked(segments, mark, known)
        missing = []
        cached = self._cache.get
        for segment in segments:
            if segment not in known:
                ids = cached(segment)
                if ids is None:
                    missing.append(segment)
                    ids = _NO_IDS
                known[segment] = ids
        return segments, known, missing

    def _unmarked(self, segments: list[str], mark: str, known: dict[str, array[int]]) -> list[str]:
        """The segments without marks."""
        if self._cut is None:
            # The library would find the added tokens again, so what was between marks stays cut there.
            return [piece for segment in segments for piece in segment.split(mark)]
        plain = []
        for segment in segments:
            text = segment.replace(mark, "") if mark in segment else segment
            if text is not segment and text in self._added_segments:
                # Nothing but the spelling of a token, under which its id is known: the mark tells them apart.
                known[segment] = self._encoder.encode([text])[0] if text else _NO_IDS
                text = segment
            plain.append(text)
        return plain

    def _learn(self, known: dict[str, array[int]], missing: list[str], encoded: list[array[int]]) -> None:
        known.update(zip(missing, encoded, strict=True))
        self._cache.put(missing, encoded)


class SegmentCache:
    """Ids of the most recently used segments, bounded by the bytes they occupy."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._entries: OrderedDict[str, array[int]] = OrderedDict()
        self.bytes_used = 0

    def __contains__(self, segment: str) -> bool:
        return segment in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, segment: str) -> array[int] | None:
        """The segment's ids, which counts as a use. They must not be changed."""
        ids = self._entries.get(segment)
        if ids is not None:
            self._entries.move_to_end(segment)
        return ids

    def put(self, segments: Sequence[str], encoded: Sequence[array[int]]) -> None:
        """Adds segments, and keeps the arrays; the least recently used ones make room. One larger than the whole cache
        is not kept.
        """
        for segment, ids in zip(segments, encoded, strict=True):
            cost = _cost(segment, ids)
            if cost > self._limit or segment in self._entries:
                continue
            self._entries[segment] = ids
            self.bytes_used += cost
        while self.bytes_used > self._limit:
            segment, packed = self._entries.popitem(last=False)
            self.bytes_used -= _cost(segment, packed)


class _PlainText(dict[int, str | None]):
    """Token id → its text, where the token needs no care: whole characters, and not an added token. Else None.

    Filled as ids are met.
    """

    def __init__(self, encoder: Encoder, added: Mapping[int, str]) -> None:
        super().__init__()
        self._encoder = encoder
        self._added = added

    def __missing__(self, token_id: int) -> str | None:
        text: str | None = None
        if token_id not in self._added:
            # Asked of the encoder, not of the table of bytes, which would keep entries that are rarely used again.
            with contextlib.suppress(UnicodeDecodeError):
                # An empty text would make an event without text; ids outside the vocabulary take the careful path.
                text = self._encoder.token_bytes(token_id).decode("utf-8") or None
        self[token_id] = text
        return text


class _TextBefore(dict[int, str | None]):
    """Token id → its plain text, where that does not end in one of some characters (any white space, if None).

    The very same texts: a full-size vocabulary has 10 MB of them.
    """

    def __init__(self, plain: Mapping[int, str | None], not_ending_in: str | None) -> None:
        super().__init__()
        self._plain = plain
        self._not_ending_in = not_ending_in

    def __missing__(self, token_id: int) -> str | None:
        text = self._plain[token_id]
        if text is not None and text.rstrip(self._not_ending_in) != text:
            text = None
        self[token_id] = text
        return text


class _TokenBytes(dict[int, bytes]):
    """Token id → bytes, filled as ids are met: the whole table of a 150,000-token vocabulary is rarely needed."""

    def __init__(self, encoder: Encoder, added: Mapping[int, str]) -> None:
        super().__init__()
        self._encoder = encoder
        self._added = added

    def __missing__(self, token_id: int) -> bytes:
        added = self._added.get(token_id)
        data = self._encoder.token_bytes(token_id) if added is None else added.encode()
        self[token_id] = data
        return data


def _cost(segment: str, ids: Sequence[int]) -> int:
    return _ENTRY_BYTES + 4 * len(ids) + len(segment) * (1 if segment.isascii() else 4)


def _segment_pattern(added: Iterable[tokenizers.AddedToken]) -> re.Pattern[str] | None:
    """What cuts a text into segments; None where added tokens reach beyond their own characters."""
    if any(t.normalized or t.lstrip or t.rstrip or t.single_word for t in added):
        return None
    longest_first = sorted((t.content for t in added), key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None


def _require_byte_level(backend: tokenizers.Tokenizer) -> None:
    parts = Parts(backend)
    before, after = parts.pre_tokenizers(), parts.decoders()
    if not isinstance(backend.model, tokenizers.models.BPE):
        raise UnsupportedTokenizer("its model is not byte-pair encoding")
    if not all(any(stage["type"] == "ByteLevel" for stage in stages) for stages in (before, after)):
        raise UnsupportedTokenizer("it does not work on bytes")
    if any(stage.get("add_prefix_space") for stage in before):
        raise UnsupportedTokenizer("its pre-tokenizer puts a space before texts")
