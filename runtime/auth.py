"""API keys: optional bearer keys, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from qwenserve.runtime.config import AuthConfig, ConfigError
from qwenserve.runtime.errors import Unauthenticated


class KeyRing:
    """The accepted keys. Keys are kept as digests, so that a dump of this object shows none."""

    __slots__ = ("_digests",)

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest(key) for key in keys if key)

    @classmethod
    def from_config(cls, config: AuthConfig) -> KeyRing:
        """Collects the keys of configuration and key file. Raises ConfigError for an unreadable or empty file."""
        keys = list(config.keys)
        if config.key_file:
            keys += _read_keys(Path(config.key_file).expanduser())
        return cls(keys)

    @property
    def required(self) -> bool:
        """Whether callers need a key."""
        return bool(self._digests)

    def check(self, authorization: str | None) -> str:
        """Returns a short id of the key in an `Authorization` value. Raises Unauthenticated."""
        if not self._digests:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthenticated("no API key given; send the header 'Authorization: Bearer KEY'")
        digest = _digest(key.strip())
        # Every key is compared, so that the time taken does not tell which one came close.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise Unauthenticated("incorrect API key")
        return digest.hex()[:8]


def _digest(key: str) -> bytes:
    # A header may hold any bytes; such a key is wrong, not an error.
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def _read_keys(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"auth.key_file: cannot read {file}: {error.strerror}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ConfigError(f"auth.key_file: {file} has no key; put one on each line")
    return keys
