"""The vocabulary in which guides are followed, and an answer's way through one. llguidance does the work.

An id costs about 5 µs to check; what is allowed next costs about 30 µs with 4,096 ids and 150 µs with 151,936.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenserve.runtime.guide_grammar import available, grammar_of
from qwenserve.worker.engine_interface import Guide

if TYPE_CHECKING:
    from llguidance import LLMatcher

# Compiled guides that are kept. One takes some hundred kilobytes; the states that it has met come on top.
_MOST_KEPT = 64
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}


class GuideError(ValueError):
    """A guide that cannot be followed here; the message says why."""


class GuideVocabulary:
    """The ids of one model with their texts. Safe to use from several threads."""

    def __init__(self, tokenizer: dict[str, Any], vocab_size: int, end_token_ids: Sequence[int]) -> None:
        """`tokenizer` is what a `tokenizer.json` holds, of byte-level BPE. Takes a second for 151,936 ids.

        Raises GuideError where it is of another kind.
        """
        from llguidance import LLTokenizer

        self._ends = sorted(end_token_ids)
        self._special = {added["content"]: added["id"] for added in tokenizer.get("added_tokens", ())}
        self._size = vocab_size
        # Markers such as <tool_call> are no text, though the file calls only some of them special.
        added_tokens = [added | {"special": True} for added in tokenizer.get("added_tokens", ())]
        whole = {"version": "1.0", "normalizer": None, "pre_tokenizer": _BYTE_LEVEL, "decoder": _BYTE_LEVEL}
        stated = {key: value for key, value in tokenizer.items() if value is not None}
        try:
            self._tokenizer = LLTokenizer(
                json.dumps(whole | stated | {"added_tokens": [_AS_ADDED | added for added in added_tokens]}),
                n_vocab=vocab_size,
                eos_token=self._ends,
                slices=LLTokenizer.json_slices(),
            )
        except ValueError as error:
            raise GuideError(f"guides cannot be followed with this tokenizer: {error}") from None
        self._lock = threading.Lock()
        self._kept: OrderedDict[Guide, LLMatcher] = OrderedDict()

    def matcher(self, guide: Guide) -> GuideMatcher:
        """Returns the beginning of an answer under a guide. Blocks while it is compiled, up to a second.

        Raises GuideError.
        """
        with self._lock:
            kept = self._kept.get(guide)
            if kept is not None:
                self._kept.move_to_end(guide)
                return GuideMatcher(kept.deep_copy(), self._size)
        compiled = self._compiled(guide)
        with self._lock:
            self._kept[guide] = compiled
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return GuideMatcher(compiled.deep_copy(), self._size)

    def _compiled(self, guide: Guide) -> LLMatcher:
        from llguidance import LLMatcher

        try:
            grammar = grammar_of(guide.kind, guide.text, self._special, self._ends)
        except ValueError as error:
            raise GuideError(f"guide: {error}") from None
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise GuideError(f"guide: {matcher.get_error()}")
        return matcher


class GuideMatcher:
    """How far an answer has come in its guide. Not shared between threads."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._size = vocab_size

    def take(self, token_id: int) -> bool:
        """Goes on with an id; returns False, and stays, where the guide does not allow it. Raises GuideError."""
        return not self._matcher.is_stopped() and self._taken(self._matcher.try_consume_tokens([token_id]))

    def replay(self, token_ids: Sequence[int]) -> None:
        """Goes through ids that were generated earlier. Raises GuideError where they do not keep to the guide."""
        ids = list(token_ids)
        if self._matcher.try_consume_tokens(ids) != len(ids):
            raise GuideError("guide: the ids that the answer goes on from do not keep to it")

    def allowed(self) -> frozenset[int]:
        """Returns the ids that may come next, end tokens among them where the answer may end. Raises GuideError."""
        bits = int.from_bytes(self._matcher.compute_bitmask(), "little")
        self._check()
        if bits.bit_count() > 256:
            return frozenset(token for token, bit in enumerate(bin(bits)[:1:-1]) if bit == "1" and token < self._size)
        ids = set()
        while bits:
            low = bits & -bits
            ids.add(low.bit_length() - 1)
            bits ^= low
        return frozenset(ids)

    def forced(self) -> Sequence[int]:
        """Returns the ids that can only come next, one after the other; empty where there is a choice."""
        ids = self._matcher.compute_ff_tokens()
        self._check()
        return ids

    @property
    def may_end(self) -> bool:
        """Whether the answer is whole as it stands."""
        return self._matcher.is_accepting()

    @property
    def complete(self) -> bool:
        """Whether nothing can follow but an end token, if that has not come."""
        return self._matcher.is_stopped()

    def _taken(self, count: int) -> bool:
        self._check()
        return count == 1

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GuideError(f"guide: {self._matcher.get_error()[:500]}")


_AS_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def vocabulary_of(directory: Path, vocab_size: int, end_token_ids: Sequence[int]) -> GuideVocabulary | None:
    """Returns the vocabulary of a model directory; None where it has no tokenizer, or llguidance is not installed.

    Raises GuideError.
    """
    file = directory / "tokenizer.json"
    if not available() or not file.is_file():
        return None
    return GuideVocabulary(json.loads(file.read_text(encoding="utf-8")), vocab_size, end_token_ids)
