"""The parts of a tokenizer as the JSON that describes them: the one module that relies on the internals
of `tokenizers`.

The library tells publicly only the whole of a tokenizer, which is ten megabytes of a full-size one. What pickling asks
a part for, its state, is the part's JSON; that is taken in releases that somebody has looked at, and in all others the
parts are cut out of the whole.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import tokenizers

# The first release where nobody has looked at what a part's state is.
NOT_LOOKED_AT = (0, 24)


class Parts:
    """The parts of one tokenizer; each is read when it is asked for."""

    def __init__(self, backend: tokenizers.Tokenizer, *, by_state: bool | None = None) -> None:
        """`by_state` reads the state of parts (true), or the public whole (false); by default as the release allows."""
        if by_state is None:
            by_state = tuple(map(int, version("tokenizers").split(".")[:2])) < NOT_LOOKED_AT
        self._backend = backend
        self._whole: dict[str, Any] | None = None if by_state else json.loads(backend.to_str())

    def normalizers(self) -> list[dict[str, Any]]:
        """What is done to a text, in order."""
        return self._stages("normalizer")

    def pre_tokenizers(self) -> list[dict[str, Any]]:
        """What cuts a text into words, in order."""
        return self._stages("pre_tokenizer")

    def decoders(self) -> list[dict[str, Any]]:
        """What makes a text of tokens, in order."""
        return self._stages("decoder")

    def merges(self) -> list[tuple[str, str]]:
        """The pairs of tokens that are merged, the first to be merged first. The model must be byte-pair encoding."""
        # Written as pairs, in older files as one text with a space between the two.
        merges = self._part("model")["merges"]
        return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ", 1)) for pair in merges]

    def _stages(self, name: str) -> list[dict[str, Any]]:
        description = self._part(name)
        if description is None:
            return []
        for inner in ("normalizers", "pretokenizers", "decoders"):
            if inner in description:
                stages: list[dict[str, Any]] = description[inner]
                return stages
        return [description]

    def _part(self, name: str) -> Any:
        if self._whole is not None:
            return self._whole[name]
        part = getattr(self._backend, name)
        return None if part is None else json.loads(part.__getstate__())
