"""Byte-pair encoding of plain text, by the quickest exact way that a tokenizer allows.

Two libraries can do it. `tokenizers` is the reference: it reads `tokenizer.json` and knows every variant. `tiktoken`
knows one, vocabularies whose ids are in the order of their merges, as Qwen's are, and needs a fifth of the time (see
docs/performance.md). So `tiktoken` encodes where the tokenizer is of that kind and agrees with the reference on a
sample at start; everything else, and every text it cannot take, goes to the reference.

The one merges neighbours by the rank of the token that they form, the other by the place of the pair in a list. That
is the same where every token has one merge and the list is in the order of ids; the tests compare the two on every
token and on every character.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import unicodedata
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import tokenizers

from qwenserve.text.id_arrays import id_array
from qwenserve.text.tiktoken_core import Ranks, ranks_of
from qwenserve.text.tokenizers_parts import Parts

_SAMPLE_TEXTS = 64
_SAMPLE_TOKENS = 32

# The end of the family's expression: runs of white space, which leave their last character to what follows.
_LOOKING_AHEAD = r"|\s+(?!\S)|\s+"


class Encoder(Protocol):
    """A vocabulary and what turns texts into its ids; added tokens in them are text like any other. May be called from
    any thread; encoding releases the interpreter lock."""

    def encode(self, texts: Sequence[str]) -> list[array[int]]:
        """The ids of each text. Halves of UTF-16 pairs, which JSON may hold, become U+FFFD."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token that is no added one; empty for an id that is none."""

    def id_of(self, spelled: str) -> int | None:
        """The id of a token in its byte-level spelling."""


class ReferenceEncoder:
    """The `tokenizers` library. Where `finds_added`, added tokens in texts become their ids after all."""

    def __init__(self, backend: tokenizers.Tokenizer, *, finds_added: bool = False) -> None:
        self._backend = backend
        added = [] if finds_added else [token.content for token in backend.get_added_tokens_decoder().values()]
        self._spells_added = re.compile("|".join(map(re.escape, added)) or r"(?!)").search
        self._without_added: tokenizers.Tokenizer | None = None

    def encode(self, texts: Sequence[str]) -> list[array[int]]:
        """See `Encoder`."""
        if any(map(self._spells_added, texts)):
            return [
                self._encode(self._plain() if self._spells_added(text) else self._backend, [text])[0] for text in texts
            ]
        return self._encode(self._backend, texts)

    def _encode(self, backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[array[int]]:
        # The batch call releases the interpreter lock, which the single one does not, and computes no offsets.
        try:
            encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeError):
            encodings = backend.encode_batch_fast([_whole(text) for text in texts], add_special_tokens=False)
        return [id_array(encoding.ids) for encoding in encodings]

    def _plain(self) -> tokenizers.Tokenizer:
        """The same tokenizer without added tokens, made when it is first needed: most texts spell none."""
        if self._without_added is None:
            settings = json.loads(self._backend.to_str())
            settings.update(added_tokens=[], post_processor=None)
            self._without_added = tokenizers.Tokenizer.from_str(json.dumps(settings))
        return self._without_added

    def token_bytes(self, token_id: int) -> bytes:
        """See `Encoder`."""
        token = self._backend.id_to_token(token_id) if token_id >= 0 else None
        return b"" if token is None else bytes(map(BYTE_OF.__getitem__, token))

    def id_of(self, spelled: str) -> int | None:
        """See `Encoder`."""
        found: int | None = self._backend.token_to_id(spelled)
        return found


class RankEncoder:
    """The `tiktoken` library. `reference` is called, once, for the first text that it cannot take."""

    def __init__(self, ranks: Ranks, *, normalize: bool, reference: Callable[[], tokenizers.Tokenizer]) -> None:
        self._ranks = ranks
        self._normalizer = tokenizers.normalizers.NFC() if normalize else None
        self._load_reference = reference
        self._reference: ReferenceEncoder | None = None

    def encode(self, texts: Sequence[str]) -> list[array[int]]:
        """See `Encoder`."""
        return list(map(self._encode, texts))

    def token_bytes(self, token_id: int) -> bytes:
        """See `Encoder`."""
        try:
            return self._ranks.decode_single_token_bytes(token_id)
        except (KeyError, OverflowError):
            return b""

    def id_of(self, spelled: str) -> int | None:
        """See `Encoder`."""
        try:
            return self._ranks.encode_single_token(bytes(map(BYTE_OF.__getitem__, spelled)))
        except KeyError:
            return None

    def _encode(self, text: str) -> array[int]:
        try:
            # The check is quick, and what is normalized by a newer Unicode version is so by the reference's older one.
            if self._normalizer is not None and not (text.isascii() or unicodedata.is_normalized("NFC", text)):
                text = self._normalizer.normalize_str(text)
            return self._ranks.ids_of(text)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            # Lone surrogates raise an ordinary error; a text that exhausts its regular expressions (a million
            # spaces) ends in a panic, which is no Exception. The reference takes both.
            if self._reference is None:
                self._reference = ReferenceEncoder(self._load_reference())
            return self._reference.encode([text])[0]


def encoder_for(backend: tokenizers.Tokenizer, reload: Callable[[], tokenizers.Tokenizer] | None = None) -> Encoder:
    """Returns the quickest encoder that gives the ids of `backend`.

    Where `reload` can make the backend again, a quick encoder does not keep it: that is 20 MB of a full-size one.
    """
    reference = ReferenceEncoder(backend)
    parts = Parts(backend)
    pattern = _only_pattern(backend, parts)
    if pattern is None:
        return reference
    vocabulary = backend.get_vocab(with_added_tokens=False)
    try:
        ranks = {bytes(map(BYTE_OF.__getitem__, token)): i for token, i in vocabulary.items()}
    except KeyError:  # a token that is no spelling of bytes
        return reference
    if any(bytes([byte]) not in ranks for byte in range(256)) or not _merges_by_id(parts, vocabulary):
        return reference
    quick = RankEncoder(
        ranks_of(ranks, _grouped(pattern)),
        normalize=backend.normalizer is not None,
        reference=reload or (lambda: backend),
    )
    sample = _sample(list(ranks))
    return quick if quick.encode(sample) == reference.encode(sample) else reference


def _byte_spelling() -> dict[str, int]:
    """Byte-level BPE's spelling of the 256 bytes: printable Latin-1 as itself, the others from U+0100 upwards."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spelled = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    spelled.update({chr(0x100 + n): byte for n, byte in enumerate(others)})
    return spelled


# Character of a token's spelling to the byte that it stands for.
BYTE_OF = _byte_spelling()


def _only_pattern(backend: tokenizers.Tokenizer, parts: Parts) -> str | None:
    """The expression that cuts words, where cutting, NFC and plain merges are all that the tokenizer does."""
    model, before = backend.model, parts.pre_tokenizers()
    plain_model = (
        not model.ignore_merges
        and not model.byte_fallback
        and not model.dropout
        and not model.continuing_subword_prefix
        and not model.end_of_word_suffix
    )
    plain_normalizer = all(stage["type"] == "NFC" for stage in parts.normalizers())
    if not plain_model or not plain_normalizer or [stage["type"] for stage in before] != ["Split", "ByteLevel"]:
        return None
    split, byte_level = before
    if split["behavior"] != "Isolated" or split["invert"] or byte_level["use_regex"]:
        return None
    pattern: str | None = split["pattern"].get("Regex")
    return pattern


def _grouped(pattern: str) -> str:
    """The same expression, quicker: where one alternative looks ahead, `tiktoken` tries each of them by itself, but
    those in a group all at once. A fifth less time for prose, a quarter for code."""
    before = pattern.removesuffix(_LOOKING_AHEAD)
    return pattern if before == pattern else f"(?:{before}){_LOOKING_AHEAD}"


def _merges_by_id(parts: Parts, vocabulary: Mapping[str, int]) -> bool:
    """Whether every token but the bytes has one merge, and the merges come in the order of the ids they make."""
    merges = parts.merges()
    if len(merges) + 256 != len(vocabulary):
        return False
    made = [vocabulary[first + second] for first, second in merges]
    return all(first < second for first, second in itertools.pairwise(made))


def _sample(tokens: list[bytes]) -> list[str]:
    # The same texts at every start, so that the choice of encoder is the same at every start.
    choose = random.Random(0)
    texts = [b"".join(choose.choices(tokens, k=_SAMPLE_TOKENS)) for _ in range(_SAMPLE_TEXTS)]
    return [text.decode("utf-8", "ignore") for text in texts]


def _whole(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
