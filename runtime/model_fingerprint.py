"""What a model is, in three short digests, computed one way by whoever has its files: router, tokenizer and worker.

Equal tokenizers make the same ids of a text, equal templates the same prompt of a conversation, equal weights the same
answer of a prompt. Files that are not there leave their part out, and parts that one side lacks are not compared: a
router needs no weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

_DIGEST_BYTES = 8
# Hashing gigabytes at every start would cost more than it tells: of each file of weights so many pieces are read.
_SAMPLES = 16
_SAMPLE_BYTES = 4096


class ModelFingerprint(NamedTuple):
    """Digests in hexadecimal; empty where a part is not known."""

    tokenizer: str = ""
    template: str = ""
    weights: str = ""

    def __str__(self) -> str:
        """As it travels: `tokenizer=… template=… weights=…`, without the parts that are not known."""
        return " ".join(f"{name}={value}" for name, value in self._asdict().items() if value)

    @classmethod
    def parse(cls, text: str) -> ModelFingerprint:
        """Reads what `str` wrote; what it does not know it leaves out."""
        parts = dict(part.split("=", 1) for part in text.split() if "=" in part)
        return cls(**{name: parts[name] for name in cls._fields if name in parts})

    def differences(self, other: ModelFingerprint) -> list[str]:
        """Returns the names of the parts that both know and that are not equal."""
        pairs = zip(self._fields, self, other, strict=True)
        return [name for name, ours, theirs in pairs if ours and theirs and ours != theirs]


def fingerprint_of(path: Path) -> ModelFingerprint:
    """Returns the fingerprint of a model directory or GGUF file. Raises OSError where a file cannot be read.

    A directory's tokenizer is `tokenizer.json`, its template `chat_template.jinja` or else that of
    `tokenizer_config.json`, its weights `config.json` with name, size and 16 pieces of each safetensors file. A GGUF
    file holds all three; it is one whole, and counts as weights.
    """
    if path.is_file():
        return ModelFingerprint(weights=_digest(_sampled(path)))
    weights = sorted(file for file in path.glob("*.safetensors") if os.access(file, os.R_OK))
    return ModelFingerprint(
        tokenizer=_digest(_bytes(path / "tokenizer.json")),
        template=_digest(_template(path)),
        weights=_digest(_bytes(path / "config.json"), *map(_sampled, weights)) if weights else "",
    )


def _template(directory: Path) -> bytes:
    content = _bytes(directory / "chat_template.jinja")
    if content:
        return content
    try:
        settings = json.loads(_bytes(directory / "tokenizer_config.json") or b"{}")
    except ValueError:
        return b""
    template = settings.get("chat_template") if isinstance(settings, dict) else None
    return json.dumps(template, sort_keys=True).encode() if template else b""


def _sampled(file: Path) -> bytes:
    size = file.stat().st_size
    pieces = [f"{file.name} {size}".encode()]
    with file.open("rb") as opened:
        for number in range(_SAMPLES):
            opened.seek(max(0, size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            pieces.append(opened.read(_SAMPLE_BYTES))
    return b"\0".join(pieces)


def _bytes(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _digest(*parts: bytes) -> str:
    if not any(parts):
        return ""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(hashlib.blake2b(part).digest())
    return digest.hexdigest()
